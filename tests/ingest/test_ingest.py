"""Annotation files in, shards out: the same bytes each time, every row accounted for, nothing half done."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.ingest import ingest as module
from polite_flamingo.ingest import parts
from polite_flamingo.ingest.ingest import IngestConfig, Spread, ingest, ingest_all
from polite_flamingo.ingest.preview import preview_rows
from polite_flamingo.sample import Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import read_quarantine_file
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard
from ray_jobs.ingest import main
from tests.support.ingesting import MISSING, QUESTIONS, config


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
    assert [row.key for row in read_quarantine_file(result.quarantine)] == ["clevr/val/5", "clevr/val/6"]


def test_the_same_input_gives_the_same_bytes(raw: SourceOptions, tmp_path: Path) -> None:
    first, second = (ingest(config(raw, tmp_path / name)) for name in ("one", "two"))
    assert [p.read_bytes() for p in first.shards] == [p.read_bytes() for p in second.shards]


def test_large_images_close_a_shard_early(raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_SHARD_BYTES", 1)
    assert len(ingest(config(raw, tmp_path / "out")).shards) == QUESTIONS - MISSING


def test_a_finished_ingest_is_not_done_again(raw: SourceOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ingest(config(raw, out))
    made = {place: place.path.stat().st_mtime_ns for place in first.shards}
    said: list[str] = []
    assert ingest_all([config(raw, out)], say=lambda name, notes: said.extend(notes)) == [first]
    assert "changed pictures under the same names would not be noticed: --fresh" in said[-1]
    assert {place: place.path.stat().st_mtime_ns for place in first.shards} == made
    first.shards[0].delete()
    with pytest.raises(SourceError, match="pass --fresh"):
        ingest(config(raw, out))  # something is lost: only the user can say that it may be replaced
    assert ingest(config(raw, out, fresh=True)).shards == first.shards


@pytest.mark.parametrize("out", ["data", "data/out"])
def test_what_an_ingest_wrote_below_its_annotations_is_neither_read_nor_a_change_of_them(
    tmp_path: Path, out: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("question,answer\na?,a\nb?,\n")
    options = SourceOptions(annotations=(tmp_path / "data",))
    given = {"source": "table", "options": options, "out": tmp_path / out}
    first = ingest(IngestConfig(**given))
    assert (first.rows_in, first.written) == (2, 1) and first.quarantine is not None
    again = ingest(IngestConfig(**given))
    assert again.seconds == first.seconds  # it was finished: else these shards are of another input, and refused
    other = ingest(IngestConfig(**given, name="two"))
    assert (other.rows_in, other.written) == (2, 1)


def test_old_shards_are_not_mixed_with_new_ones(raw: SourceOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(config(raw, out))
    (out / "gqa-00000.tar").write_bytes(b"another source")
    content = json.loads(raw.annotations[0].read_text())
    raw.annotations[0].write_text(json.dumps({"questions": content["questions"][:1]}))
    with pytest.raises(SourceError, match=r"clevr-00000\.tar already exists, made from another input: pass --fresh"):
        ingest(config(raw, out))
    result = ingest(config(raw, out, fresh=True))
    assert sorted(path.name for path in out.glob("*.tar")) == ["clevr-00000.tar", "gqa-00000.tar"]
    assert result.quarantine is None and not list((out / "quarantine").glob("*"))


class Killed(BaseException):
    pass


def killed_after(parts: int) -> Spread:
    def spread(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        for number, job in enumerate(jobs):
            if number == parts:
                raise Killed
            yield function(job)

    return spread


def test_an_interrupted_ingest_leaves_no_shard_and_goes_on_where_it_stopped(
    raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    undisturbed = ingest(config(raw, tmp_path / "other"))
    with pytest.raises(Killed):
        ingest_all([config(raw, out)], spread=killed_after(2))
    for source in (out, out / "*.tar"):
        with pytest.raises(ValueError, match=r"no \.tar shard \(passed over, shards of an ingest that has not"):
            shard_names(str(source))
    monkeypatch.setattr(module, "keyed_records", None)  # the annotations are not read a second time
    built: list[int] = []
    build = module.build_part
    monkeypatch.setattr(module, "build_part", lambda c, number, some: built.append(number) or build(c, number, some))
    result = ingest(config(raw, out))
    assert built == [2, 3]
    assert [path.read_bytes() for path in result.shards] == [path.read_bytes() for path in undisturbed.shards]
    assert result.reasons == undisturbed.reasons and not (out / "ingest/clevr").exists()


def test_changed_annotations_throw_the_work_of_an_interrupted_ingest_away(raw: SourceOptions, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        ingest_all([config(raw, tmp_path / "out")], spread=killed_after(2))
    content = json.loads(raw.annotations[0].read_text())
    raw.annotations[0].write_text(json.dumps({"questions": content["questions"][3:]}))
    result = ingest(config(raw, tmp_path / "out"))
    assert (result.rows_in, result.written) == (4, 2)


def test_an_interrupted_finish_is_taken_up(raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = config(raw, tmp_path / "out")

    clear = module.clear

    def power_goes(folder: Location) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "clear", lambda folder: power_goes(folder) if one.result.exists() else clear(folder))
        with pytest.raises(Killed):
            ingest(one)
    with pytest.raises(ValueError, match="has not finished"):
        shard_names(str(tmp_path / "out"))
    result = ingest(one)
    assert result.written == QUESTIONS - MISSING and len(result.shards) == 3
    assert len(shard_names(str(tmp_path / "out"))) == 3


def test_shards_that_are_replaced_are_nobodys_input_until_they_are_complete(raw: SourceOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(config(raw, out))
    raw.annotations[0].write_text(raw.annotations[0].read_text().replace("Is it", "Was it"))
    with pytest.raises(Killed):
        ingest_all([config(raw, out, fresh=True)], spread=killed_after(1))
    with pytest.raises(ValueError, match="has not finished"):
        shard_names(str(out))
    result = ingest(config(raw, out))  # what is left of the old ones may be replaced
    rows = [row for place in result.shards for row in read_shard(place)]
    assert all(isinstance(row, Sample) and "Was it" in row.turns[0].instruction for row in rows)
    assert len(rows) == QUESTIONS - MISSING and len(shard_names(str(out))) == 3


def test_what_an_earlier_version_left_unfinished_is_built_again(raw: SourceOptions, tmp_path: Path) -> None:
    one = config(raw, tmp_path / "out")
    module.gather(one)
    (one.work / "chosen.json").put(json.dumps({"count": None, "records": QUESTIONS}))
    (one.work / "chosen.npy").put(b"of no use any more")
    (one.work / "clevr-00000.tar.staged").put(b"a shard")
    (one.work / "00000.part").put(json.dumps({"number": 0, "written": 2, "shards": ["clevr-00000.tar.staged"]}))
    assert ingest(one).written == QUESTIONS - MISSING
    assert not (tmp_path / "out" / "ingest" / "clevr").exists()


def test_an_unusable_file_leaves_nothing_behind(raw: SourceOptions, tmp_path: Path) -> None:
    raw.annotations[0].write_text('{"questions": [{"question_index": 1}, ')
    with pytest.raises(SourceError, match="not JSON"):
        ingest(config(raw, tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_two_processes_cannot_ingest_the_same_shards_at_once(raw: SourceOptions, tmp_path: Path) -> None:
    one = config(raw, tmp_path / "out")
    with exclusive(one.work), pytest.raises(ValueError, match="another job is writing"):
        ingest(one)
    with pytest.raises(ValueError, match="2 sources would write shards called 'clevr'"):
        ingest_all([one, one])


def test_a_draw_is_seeded_nested_and_counted(raw: SourceOptions, tmp_path: Path) -> None:
    def keys(count: int, seed: int = 0) -> list[str]:
        result = ingest(config(raw, tmp_path / f"{count}-{seed}", seed=seed), count=count)
        assert result.rows_in == QUESTIONS == result.written + result.quarantined + result.left_out
        assert result.left_out == QUESTIONS - count
        rows = [row for path in result.shards for row in read_shard(path)]
        bad = read_quarantine_file(result.quarantine) if result.quarantine else []
        return sorted(row.key for row in [*rows, *bad])

    assert set(keys(2)) < set(keys(4)) < set(keys(6))  # a larger count takes the same ones and more
    assert len({tuple(keys(3, seed)) for seed in range(5)}) > 1
    assert keys(7) == sorted(f"clevr/val/{n}" for n in range(QUESTIONS))


def test_own_data_is_called_by_its_name_and_a_dataset_by_its_own(raw: SourceOptions, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,question,answer\n0.png,Is it?,yes\n")
    options = SourceOptions(annotations=(tmp_path / "mine.csv",), images=raw.images)
    for source, name, files in (("table", "mine", options), ("clevr", "clevr_val", raw)):
        one = IngestConfig(source=source, name=name, options=files, out=tmp_path / "out")
        [shard] = ingest(one).shards
        first = read_shard(shard)[0]
        assert isinstance(first, Sample) and shard.name == f"{name}-00000.tar"
        expected = "mine" if source == "table" else "clevr"
        assert first.dataset == expected and first.key.startswith(f"{expected}/")


def test_a_preview_writes_nothing(raw: SourceOptions, tmp_path: Path) -> None:
    found = preview_rows(config(raw, tmp_path / "out"), 3)
    samples = [row for row in found.rows if isinstance(row, Sample)]
    assert len(samples) == 3 and found.looked_at == len(found.rows)
    assert sum(found.reasons.values()) == len(found.rows) - 3
    assert [row.key for row in found.rows] == sorted(row.key for row in found.rows)  # in the order of the file
    assert not (tmp_path / "out").exists()
    found = preview_rows(config(raw, tmp_path / "out"), 99)
    assert (found.looked_at, found.reasons) == (QUESTIONS, {"missing_image": MISSING})


def test_the_notes_of_a_source_are_shown_before_a_shard_is_written_and_kept(
    raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clevr = SOURCES["clevr"]

    def noting(options: SourceOptions, scratch: Scratch) -> Iterator[Any]:
        for row in clevr.records(options, scratch):
            scratch.note("field 'mood' is ignored")
            yield row

    monkeypatch.setitem(SOURCES, "clevr", dataclasses.replace(clevr, records=noting))
    heard: list[tuple[str, dict[str, int], list[Path]]] = []
    out = tmp_path / "out"

    def say(name: str, notes: Mapping[str, int]) -> None:
        heard.append((name, dict(notes), list(out.rglob("*.tar*"))))

    for _ in ("an ingest", "the same again, which has nothing to do"):
        (result,) = ingest_all([config(raw, out)], say=say)
        assert result.notes == {"field 'mood' is ignored": QUESTIONS}
    assert heard[0] == ("clevr", {"field 'mood' is ignored": QUESTIONS}, [])
    assert heard[1][:2] == heard[0][:2]
    assert preview_rows(config(raw, tmp_path / "other"), 3).notes == result.notes


def test_wrong_settings_are_refused_with_a_remedy(raw: SourceOptions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are: coco_captions, "):
        IngestConfig(source="coco", options=raw, out=tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        IngestConfig(source="gqa", options=raw, out=tmp_path, samples_per_shard=0)
    options = SourceOptions(annotations=(), images=tmp_path, extra={"dataset": "x"})
    with pytest.raises(ValueError, match="gqa has no extra 'dataset'; its extras: none"):
        IngestConfig(source="gqa", options=options, out=tmp_path)
    options = SourceOptions(annotations=(), images=tmp_path, columns={"image": "file"})
    with pytest.raises(ValueError, match="gqa is not a table and takes no columns"):
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
    table = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["clevr", "7", "5", "2", "0", "2"] in [line[:6] for line in table]  # rows in, written, quarantined, left out
    assert ["missing_image", "2"] in [line[:2] for line in table]
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
    assert main(command(raw, tmp_path / "refused")) == 2 and not (tmp_path / "refused").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["--source", "clevr"])
    assert caught.value.code == 2 and "--annotations, --images, --out must be given" in capsys.readouterr().err


def test_the_list_and_the_help_need_no_model_and_no_ray() -> None:
    code = (
        "import sys; from ray_jobs.ingest import main; main(['--list'])\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "levir_cc  (LEVIR-CC)" in shown and "captions_SPLIT2014.json" in shown
