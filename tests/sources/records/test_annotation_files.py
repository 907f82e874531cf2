"""Folders of annotation files: Hugging Face's, imagefolders, and plain ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Record, SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both

CSV = "question,answer\na?,a\nb?,b\n"
COLUMNS = {"image": "image", "instruction": "question", "response": "label"}


def read(*paths: Path, source: str = "table", images: Path | None = None, **options: Any) -> Any:
    """Return samples, quarantined rows, and notes."""
    asked, scratch = SourceOptions(annotations=paths, images=images, **options), Scratch()
    context = SOURCES[source].context(asked)
    planned = keyed_records(SOURCES[source], asked, scratch)
    rows = [make_sample(SOURCES[source], row, context) if isinstance(row, Record) else row for row in planned]
    return *both(rows), scratch.notes


def as_datasets_keeps_it(pictures: list[bytes]) -> Any:
    """Make a table with the schema metadata that Hugging Face's `datasets` writes: pictures, and labels by number."""
    pyarrow = pytest.importorskip("pyarrow")
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {
        "image": pyarrow.array([{"bytes": data, "path": None} for data in pictures], image),
        "question": pyarrow.array(["a?", "b?"]),
        "label": pyarrow.array([1, 0]),
    }
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "question": {"dtype": "string", "_type": "Value"}, "label": label}
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_a_saved_dataset_and_a_clone_of_the_hubs(raw: Raw) -> None:
    data = [raw.image("a.png"), raw.image("b.jpg")]
    table = as_datasets_keeps_it(data)
    import pyarrow.parquet

    for name in ("dataset_info", "state"):
        raw.text(f"saved/{name}.json", "{}")
    with pyarrow.ipc.new_stream(str(raw.root / "saved" / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    raw.text("clone/README.md", "---\nlicense: mit\n---\n")
    (raw.root / "clone" / "data").mkdir()
    pyarrow.parquet.write_table(table, raw.root / "clone" / "data" / "train-00000-of-00001.parquet")
    for folder in ("saved", "clone"):
        samples, quarantined, _ = read(raw.root / folder, columns=COLUMNS)
        assert quarantined == []
        said = [(sample.question, sample.response) for sample in samples]
        assert said == [("a?", "Answer: dog"), ("b?", "Answer: cat")]
        assert [sample.images[0].data for sample in samples] == data
    assert samples[0].meta["source"] == "data/train-00000-of-00001.parquet#rows[0]"


def test_splits_of_a_folder_go_into_the_keys_and_can_be_chosen(raw: Raw) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        raw.text(f"hub/data/{name}.csv", CSV)
    raw.text("hub/README.md", "about it")
    samples, _, notes = read(raw.root / "hub")
    assert [sample.key.split("/")[1] for sample in samples] == ["train"] * 4 + ["validation"] * 2
    folder = raw.root / "hub"
    assert notes[f"{folder}: files of the split 'train', by their names"] == 2
    assert notes[f"{folder}: passed over, not annotations: files that describe a dataset"] == 1
    assert len(read(folder, split="validation")[0]) == 2
    with pytest.raises(SourceError, match="only of: train, validation"):
        read(folder, split="val")


def test_the_splits_of_a_folder_are_those_of_conversations_too(raw: Raw) -> None:
    chat = json.dumps([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    for name in ("train.json", "test.json"):
        raw.text(f"chats/{name}", chat)
    samples, quarantined, _ = read(raw.root / "chats", source="sharegpt")
    assert sorted(sample.key.split("/")[1] for sample in samples) == ["test", "train"] and quarantined == []


def test_an_imagefolder_is_read_by_its_metadata(raw: Raw) -> None:
    raw.image("sub/a.png")
    raw.text("images/metadata.jsonl", '{"file_name": "sub/a.png", "caption": "green"}\n')
    raw.text("images/other.json", "[]")
    samples, _, notes = read(raw.images, images=raw.images)
    assert [sample.response for sample in samples] == ["green"]
    assert notes[f"{raw.images}: passed over, not annotations: pictures"] == 1


def test_files_of_several_kinds_and_files_that_are_not_there_yet_are_refused(raw: Raw) -> None:
    raw.text("mixed/a.csv", CSV)
    raw.text("mixed/b.jsonl", '{"question": "a", "answer": "b"}\n')
    with pytest.raises(SourceError, match=r"several kinds \(1 CSV, 1 JSON\)"):
        read(raw.root / "mixed")
    raw.text("pulled/a.csv", CSV)
    raw.text("pulled/b.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(SourceError, match=r"b\.csv is a Git LFS pointer"):
        read(raw.root / "pulled")
    raw.image("a.png")
    with pytest.raises(SourceError, match=r"holds no annotation file that can be read \(pictures\)"):
        read(raw.images)


def test_linked_folders_are_read_once(raw: Raw) -> None:
    raw.text("data/a.csv", CSV)
    raw.text("elsewhere/b.csv", CSV)
    (raw.root / "data" / "linked").symlink_to(raw.root / "elsewhere")
    (raw.root / "data" / "loop").symlink_to(raw.root / "data")
    samples, _, _ = read(raw.root / "data")
    assert [sample.key for sample in samples] == [
        f"table/train/{name}-{n}" for name in ("a", "linked~2Fb") for n in (0, 1)
    ]
