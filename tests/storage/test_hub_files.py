"""hf:// is read like a bucket, through fsspec: here a folder stands for the hub, which is out of reach."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image as Pillow

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


def test_conversations_about_pictures_on_a_hub_are_read_as_on_a_disk(hub: Path, tmp_path: Path) -> None:
    """Parquet, a saved dataset, a trainer's folder, JSON and pictures, tars: the shards are the same bytes."""
    data = io.BytesIO()
    Pillow.new("RGB", (40, 30), "red").save(data, "PNG")
    string, picture = datasets.Value("string"), datasets.Image()
    features = {"images": datasets.List(picture), "texts": datasets.List({"user": string, "assistant": string})}
    rows = [
        {"images": [{"bytes": data.getvalue(), "path": None}] * (n % 3), "texts": [{"user": f"{n}?", "assistant": "."}]}
        for n in range(9)
    ]
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    for name in ("cauldron/ai2d", "chats/images", "trainer"):
        (hub / name).mkdir(parents=True)
    made.to_parquet(hub / "cauldron/ai2d/train-00000-of-00001.parquet", batch_size=2)
    made.save_to_disk(hub / "saved")
    chats = [{"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "."}],
              "images": ["images/a.png"]}]  # fmt: skip
    for name in ("chats/chats.json", "trainer/t.json"):
        (hub / name).write_text(json.dumps(chats))
    (hub / "chats/images/a.png").write_bytes(data.getvalue())
    (hub / "trainer/dataset_info.json").write_text(json.dumps({"t": {"file_name": "t.json", "formatting": "sharegpt",
        "columns": {"messages": "messages"}, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
        "assistant_tag": "assistant"}}}))  # fmt: skip
    (hub / "tars").mkdir()
    with webdataset.TarWriter(str(hub / "tars/00000.tar")) as tar:
        tar.write({"__key__": "0", "png": data.getvalue(), "txt": "a caption", "json": {"caption": "a caption"}})
    forms = [
        ("cauldron", "cauldron", None), ("llava", "saved", None), ("ms_swift", "chats/chats.json", "chats"),
        ("llama_factory", "trainer", "chats"), ("webdataset", "tars", None),
    ]  # fmt: skip
    for number, (source, files, images) in enumerate(forms):
        shards = []
        for root, path in (("disk", lambda name: hub / name), ("hub", lambda name: source_path(f"{DATA}/{name}"))):
            options = SourceOptions(annotations=(path(files),), images=path(images) if images else None)
            out = tmp_path / f"{number}-{root}"
            result = ingest(IngestConfig(source=source, options=options, out=out))
            assert result.written == (9 if source in ("cauldron", "llava") else 1), (source, result)
            shards.append([file.read_bytes() for file in sorted(out.glob("*.tar"))])
        assert shards[0] == shards[1], source


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
