"""What a selection leaves is read whole by the libraries that the dataset card names, whatever the rows are like.

`datasets` takes the columns of a WebDataset from its first rows; so the rows here differ in all that they can.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image as Pillow

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Image, Quarantined, Sample, Turn, make_key
from polite_flamingo.storage import parquet_export
from polite_flamingo.storage.json_exports import records_of
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import location
from polite_flamingo.storage.parquet_export import write_parquet
from polite_flamingo.storage.run_info import write_run
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs import select
from ray_jobs.resumable_job import begin_run
from tests.support.scored import scored

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "avif": "AVIF"}


def picture(number: int, extension: str) -> Image:
    """A picture that no other number has."""
    buffer = io.BytesIO()
    Pillow.new("RGB", (16, 12), (number * 37 % 256, number * 11 % 256, 90)).save(buffer, KINDS[extension])
    return Image(extension=extension, data=buffer.getvalue())


def row(number: int, pictures: int, *, extension: str = "", **more: Any) -> Sample:
    """A kept sample with so many pictures, of a task that goes with them."""
    task = {0: "text", 1: ("captioning", "vqa", "classification")[number % 3]}.get(pictures, "change_captioning")
    extensions = [extension or sorted(KINDS)[(number + n) % len(KINDS)] for n in range(pictures)]
    sample = scored(make_key("mixed", "train", f"a.b/{number}"), task, f"That is number {number}, I think.")
    return dataclasses.replace(
        sample,
        turns=(Turn(instruction="<image>" * pictures + "What is this?", response="Answer: red"),),
        images=tuple(picture(number * 10 + n, extension) for n, extension in enumerate(extensions)),
        provenance={"index": number, **({"note": None} if number % 2 else {})},
        **{"meta": {"source": number} if number % 2 else {"words": ["x", 1, None]}, **more},
    )


def outputs(folder: Path, *shards: list[Sample]) -> tuple[Path, dict[str, Sample]]:
    """A selection of these scored shards, and its kept rows by their keys."""
    layout = OutputLayout(root=folder / "out")
    write_run(layout, begin_run("hash", {}, ""))
    for number, rows in enumerate(shards):
        bad = Quarantined(key="", shard="s.tar", index=0, reason="corrupt_image", detail="cut short")

        def manifest(good: int, lost: int) -> Manifest:
            return Manifest(shard="s.tar", rows_in=good + lost, scored=good, quarantined=lost, config_hash="hash")

        commit_shard(layout, f"train-{number:02d}", [*rows, bad], manifest)
    select.select(layout, Thresholds())
    kept = [sample for path in tars(layout.root.path) for sample in read_shard(path)]
    assert all(isinstance(sample, Sample) for sample in kept)
    return layout.root.path, {sample.key: sample for sample in kept if isinstance(sample, Sample)}


def tars(out: Path) -> list[str]:
    return sorted(map(str, (out / "pf1m").glob("*.tar")))


MIXED = [
    [row(n, 1, extension="jpg") for n in range(6)],
    [row(n, pictures) for n, pictures in enumerate([0, 2, 1, 3, 0, 1, 2, 1], start=10)],
    [row(n, 0) for n in range(20, 23)],
    [row(n, 1, extension="webp") for n in range(30, 33)] + [row(39, 5)],
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Sample]]:
    out, kept = outputs(tmp_path_factory.mktemp("mixed"), *MIXED)
    assert sorted(kept) == sorted(sample.key for rows in MIXED for sample in rows)
    return out, kept


def load(what: str, cache: Path, streaming: bool, **options: Any) -> Iterator[dict[str, Any]]:
    cached = {} if streaming else {"cache_dir": str(cache)}
    return iter(datasets.load_dataset(what, split="train", streaming=streaming, **options, **cached))


def undecoded(rows: Any) -> Any:
    """The rows with the bytes of their pictures."""
    return rows.decode(False) if hasattr(rows, "decode") else rows.with_format(None)


def shown(found: dict[str, Any]) -> list[Any]:
    """The pictures of a row of a WebDataset, in order; where it has none, there is none."""
    columns = sorted((name for name in found if name.endswith(".jpg")), key=lambda name: int(name.split(".")[0]))
    return [found[name] for name in columns if found[name] is not None]


def same_picture(found: Pillow.Image, image: Image) -> bool:
    own = Pillow.open(io.BytesIO(image.data))
    return (found.format, found.size) == (own.format, own.size) and found.tobytes() == own.tobytes()


def is_whole(found: dict[str, Any], sample: Sample) -> bool:
    """Whether a row that a library decoded from a tar is all of the sample."""
    record, pictures = found["json"], shown(found)
    assert [same_picture(picture, image) for picture, image in zip(pictures, sample.images, strict=True)].count(
        False
    ) == 0
    assert {name: json.loads(record[name]) for name in ("meta", "scores", "provenance")} == {
        "meta": sample.meta, "scores": sample.scores, "provenance": sample.provenance,
    }  # fmt: skip
    texts = {"instruction": sample.instruction, "response": sample.response, "rewritten": sample.rewritten}
    assert record["turns"] == [texts]
    assert (record["key"], record["dataset"], record["task"]) == (sample.key, sample.dataset, sample.task)
    return record["rewritten"] == sample.rewritten and record["images"] == [i.extension for i in sample.images]


def conversation(number: int) -> Sample:
    """A kept conversation: its second turn is context, its third failed."""
    sample = row(number, 1)
    turns = (
        dataclasses.replace(sample.turns[0], rewritten="It is red, I think.", scores=sample.scores),
        Turn(instruction="Who asked?", response="Nobody", learned=False),
        Turn(instruction="<image>And this?", response="A dog", failed="empty_response"),
    )
    images = (*sample.images, picture(number * 10 + 1, "png"))
    return dataclasses.replace(sample, turns=turns, images=images, rewritten=None, scores={})


FAILED = {"failed": "empty_response"}


def test_a_conversation_is_read_back_whole_and_told_turn_by_turn(tmp_path: Path) -> None:
    samples = [row(1, 2, rewritten="Two of them."), conversation(2), conversation(3)]
    write_shard(tmp_path / "a.tar", samples, uniform=True)
    assert read_shard(tmp_path / "a.tar") == samples
    texts = ["It is red, I think.", "", ""]
    found = list(load("webdataset", tmp_path, True, data_files=str(tmp_path / "a.tar")))
    assert [len(shown(row)) for row in found] == [2, 2, 2]
    assert [[turn["rewritten"] for turn in row["json"]["turns"]] for row in found] == [["Two of them."], texts, texts]
    write_parquet(samples, location(tmp_path / "a.parquet"))
    found = list(load("parquet", tmp_path, False, data_files=str(tmp_path / "a.parquet")))
    assert found[1]["messages"] == [
        {"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": "It is red, I think."},
        {"role": "user", "content": "Who asked?"}, {"role": "assistant", "content": "Nobody"},
        {"role": "user", "content": "<image>And this?"}, {"role": "assistant", "content": "A dog"},
    ]  # fmt: skip
    notes = [json.loads(row["turn_notes"]) for row in found]
    assert notes[0] == [] and notes[1] == [{"scores": dict(samples[1].turns[0].scores)}, {"learned": False}, FAILED]
    records = records_of(samples, "a")
    llava = [json.loads(line) for line in records["llava"].splitlines()]
    assert [len(record["conversations"]) for record in llava] == [2, 6, 6]
    assert llava[1]["conversations"][4] == {"from": "human", "value": "<image>\nAnd this?"}
    pf1m = [json.loads(line) for line in records["pf1m"].splitlines()]
    assert [record["output"] for record in pf1m] == ["Two of them.", *["It is red, I think."] * 2]
    assert [record["input"].count("<img_path>") for record in pf1m] == [4, 2, 2], "no picture of a later turn"


def test_our_own_reader_gets_back_what_was_kept(mixed: tuple[Path, dict[str, Sample]]) -> None:
    _, kept = mixed
    for sample in (sample for rows in MIXED for sample in rows):
        again = kept[sample.key]
        verdicts = {"verdicts": again.scores["verdicts"]}
        assert again == dataclasses.replace(sample, scores={**sample.scores, **verdicts})


def test_webdataset_reads_every_picture_of_every_row_bit_by_bit(mixed: tuple[Path, dict[str, Sample]]) -> None:
    out, kept = mixed
    rows = list(webdataset.WebDataset(tars(out), shardshuffle=False))
    assert sorted(found["__key__"] for found in rows) == sorted(kept)
    for found in rows:
        assert shown(found) == [image.data for image in kept[found["__key__"]].images]
    for found in webdataset.WebDataset(tars(out), shardshuffle=False).decode("pil"):
        assert len(shown(found)) == len(kept[found["__key__"]].images)
        assert all(isinstance(image, Pillow.Image) for image in shown(found))


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_the_tars_whole(mixed: tuple[Path, dict[str, Sample]], tmp_path: Path, streaming: bool) -> None:
    out, kept = mixed
    rows = list(load("webdataset", tmp_path, streaming, data_files=str(out / "pf1m" / "*.tar")))
    assert sorted(found["json"]["key"] for found in rows) == sorted(kept)
    assert all(is_whole(found, kept[found["json"]["key"]]) for found in rows)
    assert sum(len(shown(found)) for found in rows) == sum(len(sample.images) for sample in kept.values()) > 20


def test_each_tar_is_whole_by_itself(mixed: tuple[Path, dict[str, Sample]], tmp_path: Path) -> None:
    out, kept = mixed
    assert len(tars(out)) > len(MIXED), "shards whose rows differ in their number of pictures were parted"
    for path in tars(out):
        for found in load("webdataset", tmp_path, True, data_files=path):
            assert is_whole(found, kept[found["json"]["key"]])


def test_rows_that_all_have_one_picture_are_in_tars_of_their_shards_names(tmp_path: Path) -> None:
    out, _ = outputs(tmp_path, *[[row(n, 1), row(n + 1, 1)] for n in (1, 3)])
    assert [Path(path).name for path in tars(out)] == ["train-00.tar", "train-01.tar"]


def test_another_selection_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    out, _ = outputs(tmp_path, [row(1, 1), row(2, 1)], [row(3, 2, rewritten="Two of them, I think.")])
    assert [Path(path).name for path in tars(out)] == ["0-pictures-2-train-01.tar", "1-pictures-1-train-00.tar"]
    select.select(OutputLayout(root=out), Thresholds(sts=0.9))  # rejects descriptions: their STS is 0.8
    assert [Path(path).name for path in tars(out)] == ["train-00.tar"]
    assert [path.name for path in (out / "parquet").iterdir()] == ["train-00.parquet"]
    assert not (out / "exports").exists()
    select.select(OutputLayout(root=out), Thresholds(sts=0.9, nli_margin=99.0))
    assert not tars(out) and "configs:" not in (out / "README.md").read_text()


@pytest.mark.parametrize("streaming", [False, True])
def test_the_folder_itself_loads_and_only_what_was_kept(
    mixed: tuple[Path, dict[str, Sample]], tmp_path: Path, streaming: bool
) -> None:
    out, kept = mixed
    rows = list(load(str(out), tmp_path, streaming))
    assert sorted(found["key"] for found in rows) == sorted(kept)
    for found in rows:
        sample = kept[found["key"]]
        assert len(found["images"]) == len(sample.images)
        assert all(same_picture(shown, image) for shown, image in zip(found["images"], sample.images, strict=True))
        assert (found["instruction"], found["response"]) == (sample.instruction, sample.response)
        assert (found["rewritten"], found["sts"]) == (sample.rewritten, sample.scores.get("sts"))
        assert json.loads(found["meta"]) == sample.meta and json.loads(found["scores"]) == sample.scores


def test_parquet_holds_the_bytes_and_says_that_they_are_pictures(
    mixed: tuple[Path, dict[str, Sample]], tmp_path: Path
) -> None:
    out, kept = mixed
    files = sorted(map(str, (out / "parquet").glob("*.parquet")))
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert found.features["images"] == datasets.List(datasets.Image())
    for path in files:
        for record in pyarrow.parquet.read_table(path).to_pylist():
            images = kept[record["key"]].images
            assert [shown["bytes"] for shown in record["images"]] == [image.data for image in images]
            assert [shown["path"].rpartition(".")[2] for shown in record["images"]] == [i.extension for i in images]


def test_row_groups_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [row(n, n % 3) for n in range(25)]
    monkeypatch.setattr(parquet_export, "MAX_GROUP_ROWS", 10)
    write_parquet(samples, location(tmp_path / "a.parquet"))
    monkeypatch.setattr(parquet_export, "MAX_GROUP_BYTES", max(len(i.data) for s in samples for i in s.images))
    write_parquet(samples, location(tmp_path / "b.parquet"))
    by_rows, by_bytes = (pyarrow.parquet.ParquetFile(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert [by_rows.metadata.row_group(n).num_rows for n in range(by_rows.num_row_groups)] == [10, 10, 5]
    assert by_bytes.metadata.num_rows == 25 and by_bytes.num_row_groups > 12
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.parquet", "b.parquet"]


def test_the_json_exports_load_as_tables(mixed: tuple[Path, dict[str, Sample]], tmp_path: Path) -> None:
    out, kept = mixed
    for name in ("llava.json", "pf1m.json"):
        written = json.loads((out / name).read_text())
        rows = load("json", tmp_path, False, data_files=str(out / name))
        for found, record in zip(rows, written, strict=True):
            assert {key: value for key, value in found.items() if value is not None} == record
        assert len(written) == len(kept)


@pytest.mark.parametrize("name", ["__main__", "__x", "_x"])
def test_an_id_that_begins_with_underscores_is_not_passed_over(tmp_path: Path, name: str) -> None:
    sample = dataclasses.replace(row(1, 1), key=make_key("__d__", "train", name))
    other = row(2, 1)
    write_shard(tmp_path / "a.tar", [sample, other], uniform=True)
    write_shard(tmp_path / "plain.tar", [sample, other])
    assert read_shard(tmp_path / "a.tar") == read_shard(tmp_path / "plain.tar") == [sample, other]
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    streamed = list(load("webdataset", tmp_path, True, data_files=str(tmp_path / "a.tar")))
    assert [json.loads(row["json"])["key"] for row in found] == [sample.key, other.key]
    assert [row["json"]["key"] for row in streamed] == [sample.key, other.key]


def test_shards_of_the_older_form_stay_readable(tmp_path: Path) -> None:
    samples = [sample for rows in MIXED for sample in rows]
    write_shard(tmp_path / "older.tar", samples)
    assert read_shard(tmp_path / "older.tar") == samples
