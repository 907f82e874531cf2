"""Every member of somebody else's tar ends in a row or in a note, whatever its name and place."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.tars import MAX_TEXT_BYTES, TarRow, tar_rows

PASSED = "passed over: members that are not data"
Given = tuple[str, bytes] | tarfile.TarInfo | str


def packed(path: Path, *given: Given) -> Path:
    """Make a tar of (name, bytes), of names alone (whose bytes are the name), and of headers."""
    with tarfile.open(path, "w", errors="surrogateescape") as file:
        for one in given:
            if isinstance(one, tarfile.TarInfo):
                file.addfile(one)
                continue
            name, data = one if isinstance(one, tuple) else (one, one.encode("utf-8", "surrogateescape"))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(path: Path) -> tuple[list[TarRow | BadSample], dict[str, int]]:
    scratch = Scratch()
    return list(tar_rows(path, scratch)), scratch.notes


def told(tmp_path: Path, *given: Given) -> list[tuple[str, Sequence[str], str | None] | tuple[str, str]]:
    """Return the id, pictures and text of each row, or its id and reason; for the tar, "" and reason."""
    rows, _ = read(packed(tmp_path / "a.tar", *given))
    return [
        ("", row.reason) if isinstance(row, BadSample)
        else (row.id, row.problem.reason) if row.problem
        else (row.id, [member.name for member in row.pictures], row.text)
        for row in rows
    ]  # fmt: skip


def pair(stem: str, picture: str = "jpg", text: str = "txt") -> tuple[str, list[str], str]:
    return (stem.rpartition("/")[2], [f"{stem}.{picture}"], f"{stem}.{text}")


def test_a_stem_ends_at_its_last_dot(tmp_path: Path) -> None:
    names = ["v1.5_0.jpg", "v1.5_0.txt", "v1.5_1.jpg", "v1.5_1.txt", "v1.jpg", "v1.txt", "a.final.PNG", "a.final.TXT"]
    assert told(tmp_path, *names) == [
        pair("v1.5_0"), pair("v1.5_1"), pair("v1"), pair("a.final", "PNG", "TXT"),
    ]  # fmt: skip


def test_equal_names_in_different_folders_are_different_rows(tmp_path: Path) -> None:
    names = ["a/0.jpg", "b/0.jpg", "b/0.txt", "a/0.txt", "c/1.jpg", "c/1.txt"]
    assert told(tmp_path, *names) == [
        ("a/0", ["a/0.jpg"], "a/0.txt"), ("b/0", ["b/0.jpg"], "b/0.txt"), ("1", ["c/1.jpg"], "c/1.txt"),
    ]  # fmt: skip


def test_the_order_of_the_members_is_of_no_matter(tmp_path: Path) -> None:
    names = ["0.jpg", "1.txt", "2.txt", "0.txt", "2.jpg", "1.jpg"]
    assert told(tmp_path, *names) == [pair("0"), pair("1"), pair("2")]


def test_columns_as_webdataset_names_them(tmp_path: Path) -> None:
    names = ["0.jpg", "0.seg.png", "0.txt", "0.cls", "1.img.jpg", "1.caption.txt", "2.jpg", "2.cls.txt", "3.jpg.txt",
             "3.jpg", "4.seg.png", "4.txt", "5.0.jpg", "5.1.jpg", "5.10.jpg", "5.2.jpg"]  # fmt: skip
    assert told(tmp_path, *names, ("5.json", b"{}")) == [
        pair("0"), ("1", ["1.img.jpg"], "1.caption.txt"), ("2", ["2.jpg"], None), ("3", ["3.jpg"], "3.jpg.txt"),
        ("4", [], "4.txt"), ("5", ["5.0.jpg", "5.1.jpg", "5.2.jpg", "5.10.jpg"], None),
    ]  # fmt: skip
    assert read(tmp_path / "a.tar")[1] == {
        "passed over: members .seg.png beside the picture and the text of their row": 2,
        "passed over: members .cls beside the picture and the text of their row": 1,
        "passed over: members .cls.txt beside the picture and the text of their row": 1,
    }


def test_names_that_only_look_alike_are_not_a_pair(tmp_path: Path) -> None:
    """The first dot would make one row of each two, with the caption of another picture."""
    names = ["v1.5_0.jpg", "v1.6_0.txt", "a.final.jpg", "a.draft.txt", "x/0.jpg", "y/0.txt", "y/1.jpg", "x/1.txt"]
    assert [(row[0], len(row[1])) for row in told(tmp_path, *names)] == [
        ("v1.5_0", 1), ("v1.6_0", 0), ("a.final", 1), ("a.draft", 0), ("x/0", 1), ("y/0", 0), ("y/1", 1), ("x/1", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["images/0.jpg", "images/1.jpg", "captions/1.txt", "captions/0.txt"], ["0", "1"]),
        (["0.txt", "1.txt", "images/1.jpg", "images/0.jpg"], ["0", "1"]),
        ([f"{s}/{k}" for s in ("train", "val") for k in ("images/0.jpg", "texts/0.txt")], ["train/0", "val/0"]),
        ([f"{k}/{b}/0.{e}" for b in "ab" for k, e in (("img", "png"), ("txt", "txt"))], ["a/0", "b/0"]),
    ],
)
def test_folders_of_pictures_and_folders_of_texts_are_matched(tmp_path: Path, names: list[str], ids: list[str]) -> None:
    rows, notes = read(packed(tmp_path / "a.tar", *names))
    assert [row.id for row in rows if isinstance(row, TarRow) and row.pictures and row.text] == ids
    assert len(rows) == len(ids)
    assert notes == {"rows whose picture and text lie in different folders of a tar were matched by name": len(ids)}


def test_two_folders_of_texts_match_no_folder_of_pictures(tmp_path: Path) -> None:
    names = ["images/0.jpg", "english/0.txt", "german/0.txt"]
    assert [len(row[1]) for row in told(tmp_path, *names)] == [1, 0, 0]


def test_repeated_names_are_rows_where_it_is_clear_which_belong_together(tmp_path: Path) -> None:
    one, two = [("0.jpg", b"A"), ("0.txt", b"a")], [("0.jpg", b"B"), ("0.txt", b"b")]
    assert told(tmp_path, *one, *two) == [("0", ["0.jpg"], "a"), ("0", ["0.jpg"], "b")]
    assert told(tmp_path, one[0], two[0], two[1], one[1]) == [("0", "duplicate_key")] * 2
    assert told(tmp_path, one[0], two[0], two[1]) == [("0", "duplicate_key")] * 2
    assert told(tmp_path, *one, two[1]) == [("0", ["0.jpg"], "a"), ("0", [], "b")]


def test_links_to_members_are_followed_and_others_reported(tmp_path: Path) -> None:
    hard, soft = link("b/1.jpg", "a/0.jpg", tarfile.LNKTYPE), link("b/2.jpg", "../a/0.jpg")
    chain, circle, out = link("b/3.jpg", "2.jpg"), link("c.jpg", "c.jpg"), link("d.jpg", "/etc/passwd")
    texts = ["b/1.txt", "b/2.txt", "b/3.txt", "c.txt", "d.txt"]
    path = packed(tmp_path / "a.tar", hard, soft, chain, circle, out, *texts, "a/0.jpg", "a/0.txt")
    rows, _ = read(path)
    found = [row for row in rows if isinstance(row, TarRow)]
    bytes_of = {row.id: path.read_bytes()[one.offset : one.offset + one.size] for row in found for one in row.pictures}
    assert bytes_of == dict.fromkeys("1230", b"a/0.jpg")
    assert [(row.id, row.problem.reason) for row in found if row.problem] == [
        ("c", "unsafe_name"), ("d", "unsafe_name"),
    ]  # fmt: skip


def test_names_of_any_kind(tmp_path: Path) -> None:
    long = "x/" * 90 + "long"
    names = ["./0.jpg", "0.txt", "/abs/1.jpg", "/abs/1.txt", "../2.jpg", "../2.txt", "e\u0301.jpg", "é.txt",
             f"{long}.jpg", f"{long}.txt", "a b\n.jpg", "a b\n.txt", "\udce9.jpg", "\udce9.txt"]  # fmt: skip
    found = told(tmp_path, *names)
    assert [row[0] for row in found] == ["0", "1", "2", "é", "long", "a b\n", "\\udce9"]
    assert all(len(row) == 3 and len(row[1]) == 1 for row in found)


def test_what_systems_leave_is_counted_and_costs_no_row(tmp_path: Path) -> None:
    left = ["._0.jpg", "a/._0.txt", ".DS_Store", "__MACOSX/a/0.jpg", "Thumbs.db", "00000_stats.json", "@PaxHeader",
            "README.md", ".gitkeep"]  # fmt: skip
    folder = link("a", "", tarfile.DIRTYPE)
    assert told(tmp_path, folder, *left, "0.jpg", "0.txt") == [pair("0")]
    notes = read(tmp_path / "a.tar")[1]
    assert [times for note, times in notes.items() if note.startswith(PASSED)] == [len(left)]
    assert notes["passed over: folders in a tar"] == 1


def test_members_that_are_not_a_row_say_why(tmp_path: Path) -> None:
    rows, _ = read(
        packed(
            tmp_path / "a.tar",
            "0.npy",
            "inner.tar",
            ".jpg",
            ("1.json", b"{"),
            ("2.txt", bytes(MAX_TEXT_BYTES + 1)),
            "3.txt",
            "3.caption",
            link("4.jpg", "", tarfile.FIFOTYPE),
        )
    )
    problems = [row.problem for row in rows if isinstance(row, TarRow) and row.problem]
    assert [(bad.reason, bad.detail.partition(":")[0]) for bad in problems] == [
        ("unsupported", "0.npy"),
        ("unsupported", "inner.tar is an archive within the tar"),
        ("unsupported", ".jpg"),
        ("bad_json", "1.json is not JSON (Expecting property name enclosed in double quotes"),
        ("text_too_long", "2.txt"),
        ("bad_field", "the row has 2 texts"),
        ("unsafe_name", "4.jpg is a device, not a file"),
    ]


def test_a_tar_without_data_and_a_damaged_one_are_rows(tmp_path: Path) -> None:
    assert told(tmp_path) == [("", "empty_shard")]
    assert told(tmp_path, "._0.jpg") == [("", "empty_shard")]
    whole = packed(tmp_path / "b.tar", "0.jpg", "0.txt", "1.jpg").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: 3 * 1024])
    rows, _ = read(tmp_path / "b.tar")
    assert [row.id if isinstance(row, TarRow) else row.reason for row in rows] == ["0", "1", "truncated_tar"]


@pytest.mark.parametrize(
    ("head", "says"), [(b"\x1f\x8b\x08", "gunzip"), (b"\x28\xb5\x2f\xfd", "unzstd"), (b"PK\x03\x04", "unzip")]
)
def test_packed_tars_are_refused_by_content_in_one_line(tmp_path: Path, head: bytes, says: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(head + bytes(600))
    with pytest.raises(SourceError, match=rf"a\.tar is packed with .*unpack it first \({says}\)"):
        read(path)


PARTS = st.sampled_from(
    ["0", "1", "v1", "5_0", "a", "seg", "img", "caption", "jpg", "", "é", "e\u0301", "\udce9", "..", " "]
)
FOLDERS = st.sampled_from(["", "./", "a/", "b/", "images/", "texts/", "a/images/", "/", "../", "__MACOSX/", "a//b/"])
ENDS = st.sampled_from(
    [".jpg", ".PNG", ".txt", ".json", ".cls", ".jpg.txt", ".seg.png", ".0.jpg", ".1.jpg", "", ".tar"]
)
STEMS = st.lists(PARTS, min_size=1, max_size=3).map(".".join)
NAMES = st.tuples(FOLDERS, st.sampled_from(["", "", "", "._"]), STEMS, ENDS).map("".join)
MEMBERS = NAMES.filter(lambda name: bool(name.strip("/")) and not name.endswith("/"))
LINKS = st.builds(link, MEMBERS, MEMBERS, st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE]))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(MEMBERS | LINKS, max_size=12))
@example(members=["0.jpg", "0.jpg", "0.txt", "0.seg.jpg", "0.json", "0.0.jpg", "0.0.0.jpg"])
@example(members=["images/0.jpg", "0.txt", "images/0.seg.png", "texts/0.txt", "images/0.jpg"])
def test_members_in_are_members_accounted_for(tmp_path: Path, members: list[Given]) -> None:
    rows, notes = read(packed(tmp_path / "a.tar", *members))
    passed = sum(times for note, times in notes.items() if note.startswith((PASSED, "passed over: folders in a tar")))
    taken = [member.place for row in rows if isinstance(row, TarRow) for member in row.members]
    assert sorted(taken) == list(range(len(members) - passed))
    for row in rows:
        if isinstance(row, TarRow) and row.problem is None and len(row.pictures) == 1 and row.text is not None:
            picture = row.pictures[0]
            text = next(member for member in row.members if member.kind == "text")
            base = picture.stem.rpartition("/")[2]
            assert text.stem == picture.stem or text.stem.rpartition("/")[2] == base
