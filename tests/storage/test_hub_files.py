"""hf:// is read like a bucket, through fsspec: here a folder stands for the hub, which is out of reach."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import Sample, Turn
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.hub_files import HubFiles
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import location
from polite_flamingo.storage.remote_path import source_path
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.storage.visibility import PathUnavailable

DATA = "hf://datasets/me/mine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository that hf:// leads to."""
    monkeypatch.setattr(HubFiles, "files", DirFileSystem(str(tmp_path), LocalFileSystem()))
    (tmp_path / "datasets/me/mine").mkdir(parents=True)
    return tmp_path / "datasets/me/mine"


def text(number: int) -> Sample:
    return Sample(key=f"d/t/{number}", dataset="d", task="text", turns=(Turn(instruction="Hi?", response="Ho."),))


def test_shards_on_a_hub_are_input(hub: Path) -> None:
    for number in range(3):
        write_shard(hub / f"train/{number:05d}.tar", [text(number)])
    (hub / "README.md").write_text("# Mine")
    for source in (DATA, f"{DATA}/train/*.tar", f"{DATA}/train/{{00000..00002}}.tar"):
        shards = shard_names(source)
        assert [name[-5:] for name in shards] == ["00000", "00001", "00002"]
        refuse_foreign(shards.values())
        assert [read_shard(pickle.loads(pickle.dumps(place))) for place in shards.values()] == [
            [text(number)] for number in range(3)
        ]
        assert all(InputFile.at(place).is_still_at(place) for place in shards.values())
    with location(f"{DATA}/train/00001.tar").open() as file:
        file.seek(257)
        assert file.read(5) == b"ustar"
    with pytest.raises(ValueError, match="does not exist"):
        shard_names(f"{DATA}/test")


def test_annotations_on_a_hub_are_read(hub: Path, tmp_path: Path) -> None:
    (hub / "t.csv").write_text("question,answer\na?,yes\nb?,no\n")
    options = SourceOptions(annotations=(source_path(f"{DATA}/t.csv"),))
    assert ingest(IngestConfig(source="table", options=options, out=tmp_path / "out")).written == 2


def test_writing_to_a_hub_is_refused_in_one_line(hub: Path) -> None:
    one = location(f"{DATA}/a")
    writes: tuple[Any, ...] = (
        lambda: one.put(b""), lambda: one.create(b""), lambda: one.swap(b"", "x"), one.delete, one.delete_tree,
    )  # fmt: skip
    (hub / "a").mkdir()
    (hub / "a/b").touch()
    for write in writes:
        with pytest.raises(PathUnavailable, match=r"^hf://datasets/me/mine/a.*hf:// is only read; write to a folder"):
            write()


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Down:
        def info(self, key: str) -> Any:
            raise ConnectionError("Max retries\nexceeded")

        find = cat_file = info

    monkeypatch.setattr(HubFiles, "files", Down())
    with pytest.raises(PathUnavailable, match=r"cannot be read \(Max retries exceeded\); check the address, HF_TOKEN"):
        shard_names(DATA)
