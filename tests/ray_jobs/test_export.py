"""What was kept goes into every format whole, and the libraries that the card names read it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image as Pillow

from polite_flamingo.exports import formats
from polite_flamingo.exports.formats import EXPORTS, Export, Format
from polite_flamingo.exports.records import picture_url
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Image, Sample, Turn, unmarked
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import write_run
from polite_flamingo.storage.shards import read_shard
from ray_jobs import select
from ray_jobs.export import main
from ray_jobs.resumable_job import begin_run
from tests.support.scored import SHAPES, draw, scored

TASKS = ("vqa", "text", "change_captioning", "captioning")


def commit(layout: OutputLayout, name: str, rows: Sequence[Sample]) -> None:
    def manifest(good: int, lost: int) -> Manifest:
        return Manifest(shard=f"{name}.tar", rows_in=good + lost, scored=good, quarantined=lost, config_hash="hash")

    commit_shard(layout, name, rows, manifest)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a build: three shards with 0 to 2 pictures a row; one row is rejected, one was polite already."""
    layout = OutputLayout(root=tmp_path_factory.mktemp("export") / "out")
    write_run(layout, begin_run("hash", {}, ""))
    for shard in range(3):
        rows = [scored(f"d/t/{shard}-{n}", TASKS[n % 4], f"That is <image> {n}, I think.") for n in range(8)]
        commit(layout, f"s{shard}", rows)
    polite = Turn(instruction="<image>What?", response="It is a red circle.")
    rows = [scored("d/t/bad", nli=[9.0, 0.0, 0.0]), dataclasses.replace(scored("d/t/polite"), turns=(polite,))]
    commit(layout, "s9", [rows[0], dataclasses.replace(rows[1], rewritten="It is a red circle. ")])
    select.select(layout, Thresholds())
    return layout.root.path


def kept(out: Path) -> dict[str, Sample]:
    rows = [row for path in sorted((out / "pf1m").glob("*.tar")) for row in read_shard(path)]
    return {row.key: row for row in rows if isinstance(row, Sample)}


def export(out: Path, name: str, to: Path | str, *more: str) -> str:
    assert main(["--out", str(out), "--format", name, "--to", str(to), *more]) == 0
    return str(to)


def load(folder: str, cache: Path) -> list[dict[str, Any]]:
    return list(datasets.load_dataset(folder, split="train", cache_dir=str(cache)))


def test_parquet_shows_pictures(out: Path, tmp_path: Path) -> None:
    folder = export(out, "parquet", tmp_path / "to")
    rows, samples = load(folder, tmp_path / "cache"), kept(out)
    assert sorted(row["key"] for row in rows) == sorted(samples) and len(rows) == 25
    for row in rows:
        sample = samples[row["key"]]
        assert [picture.size for picture in row["images"]] == [(96, 96)] * len(sample.images)
        question, answer = row["messages"]
        assert question == {"role": "user", "content": sample.instruction}
        assert answer["content"] == (sample.rewritten or "").replace("<image>", "(image)"), "a mark would be a picture"


def test_webdataset_is_read_whole(out: Path, tmp_path: Path) -> None:
    folder = export(out, "webdataset", tmp_path / "to")
    paths, samples = sorted(map(str, (tmp_path / "to/data").glob("*.tar"))), kept(out)
    found = {row["__key__"]: row for row in webdataset.WebDataset(paths, shardshuffle=False)}
    assert sorted(found) == sorted(samples)
    for key, row in found.items():
        assert [row[f"{n}.jpg"] for n in range(len(samples[key].images))] == [i.data for i in samples[key].images]
    assert {sample.key: sample for path in paths for sample in read_shard(path)} == samples
    assert len(load(folder, tmp_path / "cache")) == 25


def test_llava_and_sharegpt_name_pictures_that_are_there(out: Path, tmp_path: Path) -> None:
    llava, sharegpt = (Path(export(out, name, tmp_path / name)) for name in ("llava", "sharegpt"))
    records = json.loads((llava / "llava.json").read_text())
    assert sorted(record["id"] for record in records) == sorted(kept(out))
    info = json.loads((sharegpt / "dataset_info.json").read_text())["polite_flamingo"]
    files = sorted((sharegpt / info["file_name"]).iterdir())
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    columns, tags = info["columns"], info["tags"]
    for record, line in zip(records, lines, strict=True):
        assert record["images"] == line[columns["images"]]
        for path in line["images"]:
            assert (llava / path).read_bytes() == (sharegpt / path).read_bytes() != b""
        messages = line[columns["messages"]]
        assert [message[tags["role_tag"]] for message in messages] == [tags["user_tag"], tags["assistant_tag"]]
        assert "".join(message[tags["content_tag"]] for message in messages).count("<image>") == len(line["images"])
    assert len(load(str(sharegpt), tmp_path / "cache")) == 25


@pytest.mark.parametrize("pictures", ["data_urls", "paths"])
def test_openai_s_messages_have_pictures_as_parts(out: Path, tmp_path: Path, pictures: str) -> None:
    folder = Path(export(out, "openai", tmp_path / "to", "--pictures", pictures))
    lines = [json.loads(line) for file in (folder / "data").iterdir() for line in file.read_text().splitlines()]
    found = []
    for line in lines:
        user, assistant = line["messages"]
        assert (user["role"], assistant["role"], "weight" in assistant) == ("user", "assistant", False)
        assert user["content"][-1] == {"type": "text", "text": user["content"][-1]["text"]}
        urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
        assert len(urls) == len(user["content"]) - 1 and "<image>" not in assistant["content"]
        if pictures == "paths":
            found.append([(folder / url).read_bytes() for url in urls])
        else:
            assert all(url.startswith("data:image/png;base64,") for url in urls)
            found.append([base64.b64decode(url.partition(",")[2]) for url in urls])
    assert found == [[image.data for image in sample.images] for sample in kept(out).values()]


def test_pairs_prefer_the_polite_response(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(out, "pairs", tmp_path / "to")
    assert (
        "25 kept samples as pairs: 24 pairs of 24 samples; 1 left out (the polite text is the annotation)"
        in capsys.readouterr().out
    )
    samples = kept(out)
    for row in load(folder, tmp_path / "cache"):
        sample = samples.pop(row["key"])
        [user] = row["prompt"]
        assert [part["type"] for part in user["content"]] == ["image"] * len(row["images"]) + ["text"]
        assert len(row["images"]) == len(sample.images)
        polite = unmarked(sample.rewritten or "")  # processors count the marks in all texts
        assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": polite}]}]
        assert row["rejected"][0]["content"][0]["text"] == sample.response
    assert list(samples) == ["d/t/polite"]


def conversation() -> Sample:
    """Two pictures; the second turn is context, the last was polite already."""
    turns = (
        Turn(instruction="<image>What is this?", response="circle", rewritten="It is a circle."),
        Turn(instruction="Who drew it?", response="nobody", learned=False),
        Turn(instruction="And <image> this?", response="square", rewritten="That is a square."),
        Turn(instruction="Thanks!", response="You are welcome.", rewritten="You are welcome."),
    )
    images = tuple(Image(extension="png", data=draw("red", shape)) for shape in SHAPES[:2])
    return Sample(key="d/t/talk", dataset="d", task="dialogue", turns=turns, images=images)


def written(name: Format, folder: Path) -> Export:
    with EXPORTS[name](location(folder), 10**6) as made:
        made.add([conversation()])
    return made


def test_conversations_are_told_turn_by_turn(tmp_path: Path) -> None:
    texts = ["It is a circle.", "nobody", "That is a square.", "You are welcome."]
    [talk] = [json.loads(line) for line in (written("openai", tmp_path), tmp_path / "data/00000.jsonl")[1].open()]
    assert [message["content"] for message in talk["messages"][1::2]] == texts
    assert [message.get("weight") for message in talk["messages"][1::2]] == [None, 0, None, None]
    assert [part["type"] for part in talk["messages"][4]["content"]] == ["text", "image_url", "text"]
    assert written("sharegpt", tmp_path / "s").unmarked == written("llava", tmp_path / "l").unmarked == 1
    made = written("pairs", tmp_path / "p")
    assert (made.records, made.samples) == (2, 1)
    first, second = datasets.Dataset.from_parquet(str(tmp_path / "p/data/00000.parquet"), cache_dir=str(tmp_path / "c"))
    assert (len(first["images"]), len(second["images"])) == (1, 2)
    said = [part["text"] for message in second["prompt"] for part in message["content"] if part["type"] == "text"]
    assert said == ["What is this?", *texts[:1], "Who drew it?", "nobody", "And", "this?"]
    assert second["rejected"][0]["content"][0]["text"] == "square"


def test_a_picture_in_a_record_is_one_that_every_server_reads_alike() -> None:
    upright, turned, exif = Pillow.new("RGB", (40, 20), "red"), io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6
    upright.save(turned, "JPEG", exif=exif)
    kind, _, data = picture_url(Image(extension="jpg", data=turned.getvalue())).partition(";base64,")
    assert kind == "data:image/jpeg" and Pillow.open(io.BytesIO(base64.b64decode(data))).size == (20, 40)
    broken = picture_url(Image(extension="png", data=b"no picture"))
    assert broken == f"data:image/png;base64,{base64.b64encode(b'no picture').decode()}"


def test_what_is_exported_is_ingested_again(tmp_path: Path) -> None:
    """By the names of the sources: LLaMA-Factory's folder, OpenAI's messages, LLaVA's file."""
    sample = conversation()
    polite = [(turn.instruction.replace(" ", ""), turn.rewritten or turn.response) for turn in sample.turns]
    written("sharegpt", tmp_path / "sharegpt")
    finished = {"polite_flamingo": {"file_name": "data", "formatting": "sharegpt", "tags": {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        "columns": {"messages": "messages", "images": "images"}}}  # fmt: skip
    (tmp_path / "sharegpt/dataset_info.json").write_text(json.dumps(finished))
    written("openai", tmp_path / "openai")
    written("llava", tmp_path / "llava")
    for source, files_at, images in (
        ("llama_factory", "sharegpt", "sharegpt"), ("openai_messages", "openai/data", None),
        ("llava", "llava/llava.json", "llava"),
    ):  # fmt: skip
        options = SourceOptions(annotations=(tmp_path / files_at,), images=tmp_path / images if images else None)
        [row] = SOURCES[source].read(options)
        assert isinstance(row, Sample), row
        assert [(turn.instruction.replace(" ", ""), turn.response) for turn in row.turns] == polite
        assert [image.data for image in row.images] == [image.data for image in sample.images]
        assert [turn.learned for turn in row.turns] == [True, source != "openai_messages", True, True]


@pytest.mark.parametrize("name", ["parquet", "webdataset", "sharegpt", "openai", "pairs"])
def test_files_stay_below_the_limit(out: Path, tmp_path: Path, name: Format) -> None:
    samples = [dataclasses.replace(sample, key=f"{sample.key}-{n}") for n in range(12) for sample in kept(out).values()]
    for limit in (10**9, 40_000):
        with EXPORTS[name](location(tmp_path / str(limit)), limit) as made:
            for start in range(0, len(samples), 10):
                made.add(samples[start : start + 10])
        assert made.samples + sum(made.left_out.values()) == len(samples)
    whole, cut = (sorted((tmp_path / str(limit) / "data").iterdir()) for limit in (10**9, 40_000))
    assert len(cut) > len(whole) and sum(path.stat().st_size < 80_000 for path in cut) >= len(cut) - 1
    lines = [sum(path.read_bytes().count(b"\n") for path in files) for files in (whole, cut)]
    assert name not in ("sharegpt", "openai") or lines == [len(samples)] * 2


def files(folder: str) -> dict[str, bytes]:
    place = location(folder)
    return {name: (place / name).read_bytes() for name in place.names() if name not in (".lock", "lock.json")}


def test_a_bucket_gets_what_a_disk_gets(out: Path, tmp_path: Path, bucket: str) -> None:
    for name in EXPORTS:
        there, here = export(out, name, f"{bucket}/{name}"), export(out, name, tmp_path / name)
        assert files(there) == files(here) and "README.md" in files(there)


def test_a_second_run_replaces_what_the_first_left(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to"
    whole = files(export(out, "llava", to))
    capsys.readouterr()
    export(out, "llava", to)
    assert "already in" in capsys.readouterr().out and files(str(to)) == whole

    adding = formats.ParquetExport.add

    def dying(self: formats.ParquetExport, samples: Sequence[Sample]) -> None:
        if self.samples > 5:
            raise OSError("No space left on device")
        adding(self, samples)

    with monkeypatch.context() as patched:
        patched.setattr(formats.ParquetExport, "add", dying)
        assert main(["--out", str(out), "--format", "parquet", "--to", str(to)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert json.loads((to / "export.json").read_text())["finished"] is False
    assert not list(to.rglob("*.parquet")) and not list(to.rglob("*.tmp-*"))
    (to / "images/of-mine").mkdir(parents=True)
    export(out, "llava", to)
    assert files(str(to)) == whole
    export(out, "parquet", to)
    assert {Path(name).parts[0] for name in files(str(to))} == {"data", "README.md", "export.json"}


def test_what_it_cannot_do_is_one_line(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").write_bytes(b"precious")
    said = {
        "holds other files (photo.jpg)": ["--out", str(out), "--format", "llava", "--to", str(tmp_path / "mine")],
        "holds no finished selection": ["--out", str(tmp_path / "no"), "--format", "llava", "--to", "x"],
        "is in the output folder": ["--out", str(out), "--format", "llava", "--to", str(out / "exports")],
        "and then polite-flamingo push": ["--out", str(out), "--format", "llava", "--to", "hf://datasets/a/b"],
        "of the format openai only": ["--out", str(out), "--format", "llava", "--to", "x", "--pictures", "paths"],
        "must be one of parquet, webdataset": ["--out", str(out), "--format", "csv", "--to", "x"],
    }  # fmt: skip
    for words, arguments in said.items():
        try:
            assert main(arguments) == 2
        except SystemExit as end:
            assert end.code == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != ".lock"] == ["photo.jpg"]
