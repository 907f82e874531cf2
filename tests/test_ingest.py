"""Annotation files in, shards out: the same bytes each time, every row accounted for, nothing half done."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pillow

from polite_flamingo import ingest as module
from polite_flamingo.ingest import IngestConfig, ingest
from polite_flamingo.ledger import read_quarantine, shard_names
from polite_flamingo.sample import Sample
from polite_flamingo.shards import read_shard
from polite_flamingo.sources import Row, SourceError, SourceOptions
from ray_jobs.ingest import main

QUESTIONS = 7
MISSING = 2


@pytest.fixture
def raw(tmp_path: Path) -> SourceOptions:
    """A CLEVR-like dataset of seven questions, two of which have no image."""
    (tmp_path / "images").mkdir()
    for number in range(QUESTIONS - MISSING):
        buffer = io.BytesIO()
        Pillow.new("RGB", (9, 9), (number, 0, 0)).save(buffer, "PNG")
        (tmp_path / f"images/{number}.png").write_bytes(buffer.getvalue())
    questions = [
        {"question_index": n, "question": f"Is it {n}?", "answer": "yes", "image_filename": f"{n}.png", "split": "val"}
        for n in range(QUESTIONS)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    return SourceOptions(annotations=(tmp_path / "q.json",), images=tmp_path / "images")


def config(raw: SourceOptions, out: Path, **more: object) -> IngestConfig:
    return IngestConfig(source="clevr", options=raw, out=out, samples_per_shard=2, **more)  # type: ignore[arg-type]


def test_shards_are_cut_named_and_filled_in_order(raw: SourceOptions, tmp_path: Path) -> None:
    result = ingest(config(raw, tmp_path / "out"))
    assert (result.rows_in, result.written, result.quarantined) == (QUESTIONS, QUESTIONS - MISSING, MISSING)
    assert result.reasons == {"missing_image": MISSING}
    assert [path.name for path in result.shards] == [f"clevr-0000{n}.tar" for n in range(3)]
    rows = [row for path in result.shards for row in read_shard(path)]
    assert [row.key for row in rows] == [f"clevr/val/{n}" for n in range(QUESTIONS - MISSING)]
    for number, row in enumerate(rows):
        assert isinstance(row, Sample)
        assert row.images[0].data == (tmp_path / f"images/{number}.png").read_bytes()  # bit-exact
    assert result.quarantine is not None
    assert [row.key for row in read_quarantine(result.quarantine)] == ["clevr/val/5", "clevr/val/6"]


def test_the_same_input_gives_the_same_bytes(raw: SourceOptions, tmp_path: Path) -> None:
    first, second = (ingest(config(raw, tmp_path / name)) for name in ("one", "two"))
    assert [p.read_bytes() for p in first.shards] == [p.read_bytes() for p in second.shards]


def test_large_images_close_a_shard_early(raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 1)
    assert len(ingest(config(raw, tmp_path / "out")).shards) == QUESTIONS - MISSING


def test_old_shards_are_not_mixed_with_new_ones(raw: SourceOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(config(raw, out))
    (out / "gqa-00000.tar").write_bytes(b"another source")
    with pytest.raises(SourceError, match=r"clevr-00000\.tar is there already: pass --fresh"):
        ingest(config(raw, out))
    content = json.loads(raw.annotations[0].read_text())
    raw.annotations[0].write_text(json.dumps({"questions": content["questions"][:1]}))
    result = ingest(config(raw, out, fresh=True))
    assert sorted(path.name for path in out.glob("*.tar")) == ["clevr-00000.tar", "gqa-00000.tar"]
    assert result.quarantine is None and not list((out / "quarantine").glob("*"))


def test_a_killed_ingest_leaves_no_shard_and_the_next_one_cleans_up(raw: SourceOptions, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def killed(rows: Iterator[Row]) -> Iterator[Row]:
        for number, row in enumerate(rows):
            if number == 4:
                assert len(list((tmp_path / "out").iterdir())) == 2  # two shards are staged by now
                raise Killed
            yield row

    with pytest.raises(Killed):
        ingest(config(raw, tmp_path / "out"), watch=killed)
    assert not list((tmp_path / "out").iterdir())

    (tmp_path / "out/clevr-00007.tar.tmp-staged").write_bytes(b"left by a kill that ran no handler")
    with pytest.raises(ValueError, match=r"no \.tar shard"):
        shard_names(str(tmp_path / "out"))
    ingest(config(raw, tmp_path / "out"))
    assert list(shard_names(str(tmp_path / "out"))) == ["clevr-00000", "clevr-00001", "clevr-00002"]
    assert not list((tmp_path / "out").glob("*.tmp-*"))


def test_wrong_settings_are_refused_with_a_remedy(raw: SourceOptions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are: coco_captions, "):
        IngestConfig(source="coco", options=raw, out=tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        IngestConfig(source="gqa", options=raw, out=tmp_path, samples_per_shard=0)
    options = SourceOptions(annotations=(), images=tmp_path, extra={"dataset": "x"})
    with pytest.raises(ValueError, match="gqa knows no extra 'dataset'; it knows: none"):
        IngestConfig(source="gqa", options=options, out=tmp_path)


def command(raw: SourceOptions, out: Path, *more: str) -> list[str]:
    return [
        "--source", "clevr", "--annotations", str(raw.annotations[0]), "--images", str(raw.images), "--out", str(out),
        *more,
    ]  # fmt: skip


def test_the_command_prints_every_row_by_reason(
    raw: SourceOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(raw, tmp_path / "out", "--samples_per_shard", "3")) == 0
    printed = capsys.readouterr().out
    words = printed.replace("│", " ").split()
    for name, count in (("in", "7"), ("written", "5"), ("quarantined", "2"), ("missing_image", "2")):
        assert words[words.index(name) + 1] == count
    assert len(list((tmp_path / "out").glob("clevr-*.tar"))) == 2


def test_the_exit_status_tells_nothing_written_from_unusable(
    raw: SourceOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    wrong = SourceOptions(annotations=raw.annotations, images=tmp_path / "empty")
    assert main(command(wrong, tmp_path / "out")) == 1
    assert "does --images name the right folder?" in capsys.readouterr().out
    raw.annotations[0].write_text('{"questions": [')
    assert main(command(raw, tmp_path / "out")) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and "not JSON" in shown[0]
    with pytest.raises(SystemExit) as caught:
        main(["--source", "clevr"])
    assert caught.value.code == 2 and "--annotations, --images, --out must be given" in capsys.readouterr().err


def test_the_list_and_the_help_need_no_model_and_no_ray() -> None:
    code = (
        "import sys; from ray_jobs.ingest import main; main(['--list'])\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "levir_cc\n    change captioning" in shown and "captions_SPLIT2014.json" in shown
