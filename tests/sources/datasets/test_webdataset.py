"""Tars of the user's own pictures and texts: captions, instructions and conversations, whoever packed them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Context, SourceOptions, keyed_records
from polite_flamingo.sources.registry import SOURCES
from tests.sources.reading.test_download import picture
from tests.sources.reading.test_tars import packed
from tests.support.raw_dataset import both


def read(*annotations: Path, **extra: str) -> tuple[list[Sample], list[Quarantined]]:
    return both(SOURCES["webdataset"].read(SourceOptions(annotations=annotations, extra=extra)))


def noted(*annotations: Path) -> dict[str, int]:
    scratch = Scratch()
    list(keyed_records(SOURCES["webdataset"], SourceOptions(annotations=annotations), scratch))
    return scratch.notes


def said(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_picture_and_its_caption(tmp_path: Path) -> None:
    packed(tmp_path / "00000.tar", ("0.jpg", picture()), ("0.txt", b"a dog\n"), ("1.png", picture()),
           ("1.json", said(TEXT="a cat", url="http://a/", width=3, exif={})), ("2.jpg", picture()),
           ("2.txt", b"a cow"), ("2.json", said(caption="another", key="2")))  # fmt: skip
    samples, quarantined = read(tmp_path / "00000.tar")
    assert not quarantined
    assert [(row.key, row.response, row.images[0].data, row.dataset) for row in samples] == [
        ("webdataset/train/00000~2F0", "a dog", picture(), "webdataset"),
        ("webdataset/train/00000~2F1", "a cat", picture(), "webdataset"),
        ("webdataset/train/00000~2F2", "a cow", picture(), "webdataset"),
    ]
    kept = {"url": "http://a/", "width": 3, "exif": {}}
    assert samples[1].meta == kept | {"captions": 1, "source": "00000.tar#rows[1]"}
    assert noted(tmp_path / "00000.tar") == {
        "guessed: field 'TEXT' of the .json is the caption": 1,
        "guessed: of a .txt and a caption in the .json, the .txt is the caption": 1,
    }


def test_instructions_and_conversations(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    two = [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "The first."}]
    path = packed(
        tmp_path / "a.tar", ("0.jpg", picture()), ("0.json", said(question="What?", answer="red", site="x")),
        ("1.jpg", picture()), ("1.json", said(id="z", image="elsewhere.jpg", conversations=talk)),
        ("2.0.jpg", picture()), ("2.1.jpg", picture()), ("2.json", said(messages=two)),
        ("3.json", said(instruction="Say hello.", output="Hello.")),
        ("4.jpg", picture()), ("4.json", said(question="What?", answers=["a", "b", "b"])),
    )  # fmt: skip
    samples, quarantined = read(path)
    assert not quarantined
    assert [(row.task, row.instruction, row.response, len(row.images)) for row in samples] == [
        ("vqa", "<image>What?", "Answer: red", 1),
        ("dialogue", "<image>What?", "Red.", 1),
        ("dialogue", "<image>or <image>?", "The first.", 2),
        ("text", "Say hello.", "Hello.", 0),
        ("vqa", "<image>What?", "Answer: b", 1),
    ]
    assert samples[0].meta["site"] == "x"
    assert [row.task for row in read(path, task="vqa_rationale")[0]][:2] == ["vqa_rationale"] * 2
    with pytest.raises(SourceError, match="task='poetry' must be one of"):
        read(path, task="poetry")


def test_each_bad_row_is_quarantined_once(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "a.tar", ("0.jpg", picture()), ("1.txt", b"alone"), ("2.jpg", picture()), ("2.json", said(a=1)),
        ("3.jpg", picture()), ("3.png", picture()), ("3.txt", b"two"), ("4.jpg", picture()), ("4.txt", b" \n"),
        ("5.jpg", b""), ("5.txt", b"empty"), ("6.jpg", picture()), ("6.json", b"[]"), ("7.jpg", picture()),
        ("7.txt", b"caf\xe9"), ("8.jpg", picture()), ("8.json", said(question="What?", answer={"a": 1})),
    )  # fmt: skip
    samples, quarantined = read(path)
    assert not samples
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"a.tar#rows[{number}]", reason)
        for number, reason in enumerate(
            ["missing_annotation", "missing_image", "missing_annotation", "bad_field", "missing_annotation",
             "empty_image", "bad_field", "bad_field", "bad_field"]
        )
    ]  # fmt: skip


def test_tars_that_count_alike_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("a/0.tar", "b/0.tar", "b/1.TAR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        packed(tmp_path / name, ("0.jpg", picture()), ("0.txt", name.encode()))
    samples, quarantined = read(tmp_path)
    assert not quarantined
    assert [(row.key, row.response) for row in samples] == [
        (f"webdataset/train/{name[:3].replace('/', '~2F')}~2F0", name) for name in ("a/0.tar", "b/0.tar", "b/1.TAR")
    ]


def test_linked_folders_are_read_and_what_is_passed_over_is_noted(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, elsewhere):
        folder.mkdir()
        packed(folder / "0.tar", ("0.jpg", picture()), ("0.txt", folder.name.encode()))
    (data / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(data)
    for name in ("1.tar.gz", "0.parquet", "0_stats.json", "._0.tar", "list"):
        (data / name).touch()
    assert [row.response for row in read(data)[0]] == ["data", "elsewhere"]
    assert set(noted(data)) == {
        "passed over, packed .tar.gz (unpack them first): 1.tar.gz",
        "passed over, files ending in .parquet: 0.parquet",
        "passed over, hidden files: ._0.tar",
        "passed over, not data, by their names: 0_stats.json",
        "passed over, files without an extension: list",
        "passed over, links to folders that are already read: linked/back",
    }
    for name, says in (("data/list", "cannot be read|is not a tar"), ("data/absent.tar", "cannot be read")):
        (data / "list").write_text("no tar " * 100)
        with pytest.raises(SourceError, match=says):
            read(tmp_path / name)
    with pytest.raises(SourceError, match=r"holds no \.tar file \(passed over, packed \.tgz .*: a\.tgz\)"):
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "a.tgz").touch()
        read(tmp_path / "none")


def test_the_webdataset_library_writes_what_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"s.{number}", "jpg": picture(), "txt": f"picture {number}", "cls": number})
    samples, quarantined = read(tmp_path)
    assert [row.response for row in samples] == ["picture 0", "picture 1", "picture 2"] and not quarantined


def test_gnu_tar_packs_a_folder(tmp_path: Path) -> None:
    """`tar -C folder .` starts each name with ./, and a link to a file that was packed before is a hard link."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as file:
        for name, data in (("./x" * 60 + ".jpg", picture()), ("./x" * 60 + ".txt", b"long")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        hard = tarfile.TarInfo("./y.jpg")
        hard.type, hard.linkname = tarfile.LNKTYPE, "./x" * 60 + ".jpg"
        file.addfile(hard)
        info = tarfile.TarInfo("./y.txt")
        info.size = 6
        file.addfile(info, io.BytesIO(b"linked"))
    samples, quarantined = read(tmp_path / "a.tar")
    assert [(row.response, row.images[0].data) for row in samples] == [("long", picture()), ("linked", picture())]
    assert not quarantined


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a", "said": None, "text": "x", "pictures": [["0.jpg", 0, "a.tar", 0]]},
        {"id": "a", "said": None, "text": "x", "pictures": [["0.jpg", True, "a.tar", 0, 9]]},
        {"id": "a", "said": [], "text": "x", "pictures": []},
        {"id": "a", "said": None, "text": 5, "pictures": []},
        {"id": "a", "said": None, "text": "x", "pictures": [["0.jpg", 0, "../a.tar", 0, 9]]},
        {"id": "a", "said": None, "text": "x", "pictures": [["0.jpg", 9, "a.tar", 0, 9]]},
        {"id": "a", "said": None, "text": "x", "pictures": [["0.jpg", 0, "\0", 0, 9]]},
        {"id": "a"},
        5,
    ],
)
def test_a_malformed_record_is_a_bad_sample(tmp_path: Path, record: Any) -> None:
    context = Context(SourceOptions(annotations=(tmp_path,)), ImageFolder(None))
    with pytest.raises(BadSample):
        SOURCES["webdataset"].build("webdataset/train/a", record, context)


def test_fields_of_the_json_exclude_a_row_or_are_kept(tmp_path: Path) -> None:
    packed(tmp_path / "00000.tar", ("0.jpg", picture()), ("0.json", said(caption="a dog", similarity=0.31)),
           ("1.jpg", picture()), ("1.json", said(caption="a cat", is_correct=False)),
           ("2.jpg", picture()), ("2.json", said(question="What?", answer="a cow", video="a.mp4")),
           ("3.jpg", picture()), ("3.json", said(question="What is <video>?", answer="a cow")),
           ("4.jpg", picture()), ("4.json", said(question="<|image_pad|>What?", answer="a cow", train=0)),
           ("5.jpg", picture()), ("5.json", said(question="<|image_pad|>What?", answer="a cow")))  # fmt: skip
    samples, quarantined = read(tmp_path / "00000.tar")
    assert [(row.instruction, row.response) for row in samples[1:]] == [("<image>What?", "Answer: a cow")]
    assert samples[0].meta["similarity"] == 0.31
    assert [row.reason for row in quarantined] == ["excluded", "unsupported", "unsupported", "excluded"]


def test_messages_alone_and_pairs_are_conversations_and_our_own_shards_need_no_ingest(tmp_path: Path) -> None:
    """Megatron Energon packs the messages alone; the Cauldron's pairs are called `texts`."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    pairs = {"texts": [{"user": "Which?", "assistant": "The first."}]}
    ours = {"key": "a", "dataset": "table", "task": "vqa", "turns": []}
    members = [(f"{n}.json", json.dumps(one).encode()) for n, one in enumerate([talk, pairs, ours])]
    path = packed(tmp_path / "a.tar", *((f"{n}.jpg", picture()) for n in range(3)), *members, ("list.jsonl", b"{}"))
    samples, quarantined = read(path)
    assert [(row.instruction, row.response, len(row.images)) for row in samples] == [
        ("<image>What?", "Red.", 1),
        ("<image>Which?", "The first.", 1),
    ]
    assert [(row.reason, row.detail) for row in quarantined] == [
        (
            "unsupported",
            "the .json of 2 is a sample of this project: pass the tar to polite-flamingo build as --input; it needs no "
            "ingest",
        ),
        (
            "unsupported",
            "list.jsonl lists annotations: unpack the tar (tar -xf), and read it with --source table or llava",
        ),
    ]
