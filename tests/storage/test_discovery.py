"""Input lies in a folder, a bucket, a pattern or a list; the same shards get the same names wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import Sample, Turn
from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import Location, get_bucket, location
from polite_flamingo.storage.provenance import annotations_of, ingests_of
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.storage.visibility import PathUnavailable
from polite_flamingo.testbed.s3_server import BUCKET


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return location(tmp_path / "in" if request.param == "folder" else request.getfixturevalue("bucket"))


def fill(place: Location, *names: str) -> None:
    for name in names:
        (place / name).put(b"x")


def found(source: str | Location, own: Location | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the shards of an input, and what is said."""
    said: list[str] = []
    return list(shard_names(str(source), own, said.append)), said


class Counted:
    """Counts the requests that look for objects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.heads = self.lists = 0
        head, listing = Bucket.head, Bucket.list

        def counted_head(store: Bucket, key: str) -> Any:
            self.heads += 1
            return head(store, key)

        def counted_list(store: Bucket, prefix: str = "") -> Iterator[Any]:
            self.lists += 1
            return listing(store, prefix)

        monkeypatch.setattr(Bucket, "head", counted_head)
        monkeypatch.setattr(Bucket, "list", counted_list)


def test_the_shards_of_a_folder_are_those_below_it(place: Location) -> None:
    fill(place, "b.tar", "coco/train-0.TAR", "coco/x.json", ".hidden.tar", "old.tar.gz", "deep/er/c.tar", "._b.tar")
    names, said = found(place)
    assert names == ["b", "coco__train-0", "deep__er__c"]
    assert sorted(said) == [
        "passed over, files ending in .json: coco/x.json",
        "passed over, hidden files: ._b.tar, .hidden.tar" if ", ._b" not in str(said) else said[0],
        "passed over, packed .tar.gz (unpack them first): old.tar.gz",
    ]
    assert found(place / "coco")[0] == ["train-0"]
    assert found(place / "b.tar")[0] == ["b"]


def test_patterns_mean_the_same_in_a_bucket(place: Location) -> None:
    fill(place, *(f"a/{number:06d}.tar" for number in range(8, 12)), "b/x.tar", "b/deep/y.tar", "a/note.md")
    for pattern, names in {
        "a/{000008..000010}.tar": ["000008", "000009", "000010"],
        "a/00000?.tar": ["000008", "000009"],
        "{a,b}/*.tar": ["a__000008", "a__000009", "a__000010", "a__000011", "b__x"],
        "a/0000[!1]*.tar": ["000008", "000009"],
        "**/y.tar": ["b__deep__y"],
        "b*": ["b__deep__y", "b__x"],
        "a/000011*": ["000011"],
    }.items():
        assert found(place / pattern)[0] == names, pattern
    with pytest.raises(ValueError, match=r"3 of the 6 files of .* do not exist; the first is .*/a/000012\.tar$"):
        found(place / "a/{000009..000014}.tar")
    with pytest.raises(ValueError, match=r"nothing matches .*/c/"):
        found(place / "c/*.tar")
    with pytest.raises(ValueError, match=r"nothing matches .*/a/"):
        found(place / "a/{20..24}.tar")


def test_a_bucket_is_not_asked_for_each_shard_that_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = location(bucket) / "in"
    fill(place, *(f"a/{number:06d}.tar" for number in range(30)))
    (location(bucket) / "list.txt").put("".join(f"in/a/{number:06d}.tar\n" for number in range(30)))
    for source in ("in", "in/a/{000000..000029}.tar", "in/a/*.tar", "list.txt"):
        with monkeypatch.context() as patch:
            counted = Counted(patch)
            shards = shard_names(f"{bucket}/{source}")
            stamps = [InputFile.at(shard) for shard in shards.values()]
            assert len(stamps) == 30 and all(stamp.tag and stamp.size == 1 for stamp in stamps)
            assert all(stamp.is_still_at(shard) for stamp, shard in zip(stamps, shards.values(), strict=True))
            assert counted.lists <= 2 and counted.heads <= 1, "the folder, and what ingests left beside it"


def test_the_marks_by_which_consoles_make_folders_are_nothing(bucket: str) -> None:
    fill(location(bucket), "in/0.tar", "in/deep/1.tar")
    (location(bucket) / "in/deep").put(b"")
    assert found(f"{bucket}/in") == (["0", "deep__1"], [])


def test_a_list_names_paths_and_addresses(place: Location, tmp_path: Path) -> None:
    fill(place, "x/0.tar", "x/1.tar", "y/deep/2.tar", "y/3.tar", "z/4.tar")
    (place / "lists/mine.txt").put(
        f"\ufeff#\n../x/0.tar\n\n  ../x/0.tar\n../x/1.tar\r\n../y\n{place}/z/{{4..4}}.tar\n{place}/z/4.tar\n"
    )
    names, said = found(place / "lists/mine.txt")
    inside = str(place).partition("://")[2] or str(place).lstrip("/")
    last = f"{inside}/z/4".replace("/", "__")
    assert names == sorted(["x__0", "x__1", "y__3", "y__deep__2", last])
    assert said[0] == "passed over, lines that repeat an earlier one: ../x/0.tar"
    assert said[1].startswith("passed over, shards that the list names twice")
    assert len(said) == 2
    (place / "lists/mine.txt").put("../x/0.tar\n../x/9.tar\n../gone/8.tar\n")
    with pytest.raises(ValueError, match=r"2 of the 3 files that .*mine\.txt names do not exist: .*x/9\.tar$"):
        found(place / "lists/mine.txt")
    (place / "lists/mine.txt").put("ftp://host/a.tar\n")
    with pytest.raises(ValueError, match=r"mine\.txt, line 1: ftp://host/a\.tar: ftp: is not supported"):
        found(place / "lists/mine.txt")
    (place / "lists/mine.txt").put("../x/\u00fc.tar\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.txt is not UTF-8 .*iconv"):
        found(place / "lists/mine.txt")
    (place / "lists/mine.txt").put("# nothing\n")
    with pytest.raises(ValueError, match=r"mine\.txt has no \.tar shard"):
        found(place / "lists/mine.txt")


def test_a_list_on_the_disk_may_name_what_lies_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    fill(location(bucket), "a/0.tar", "b/0.tar")
    fill(location(tmp_path), "here/0.tar")
    (tmp_path / "all.txt").write_text(f"here/0.tar\n{bucket}/a/0.tar\n{bucket}/b\n")
    shards = shard_names(str(tmp_path / "all.txt"))
    inside = bucket.removeprefix("s3://").replace("/", "__")
    assert {name: str(place) for name, place in shards.items()} == {
        f"{inside}__a__0": f"{bucket}/a/0.tar",
        f"{inside}__b__0": f"{bucket}/b/0.tar",
        "here__0": f"{tmp_path}/here/0.tar",
    }


def test_what_jobs_and_ingests_write_is_told_from_input(place: Location) -> None:
    fill(place, "0.tar", "scored/1.tar", "manifests/1.json", "run.json", "ingest/t/x.tar", "quarantine/q.tar")
    (place / "ingest/t.json").put('{"shards": ["0.tar"]}')
    names, said = found(place)
    assert names == ["0"] and any("what a job wrote" in line for line in said)
    fill(place / "other", "0.tar", "mine/0.tar")
    assert found(place / "other", place / "other/mine")[0] == ["0"]
    with pytest.raises(ValueError, match="which this job writes: give another --out"):
        found(place / "scored", place)


def test_a_missing_input_is_said_in_one_line(place: Location) -> None:
    fill(place, "a/0.json")
    for source, says in {
        "b": "does not exist",
        "a/1.tar": "does not exist",
        "a": r"has no \.tar shard \(passed over, files ending in \.json: 0\.json\)",
    }.items():
        with pytest.raises(ValueError, match=f"^input {place}/{source} {says}") as error:
            found(place / source)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "bucket_name", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "the secret key is wrong"),
        ({}, "no-such-bucket", "there is no such bucket"),
    ],
)
def test_a_bucket_that_cannot_be_listed_says_why(
    s3: Mapping[str, str], environment: dict[str, str], bucket_name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3, **environment}.items():
        monkeypatch.setenv(name, value)
    get_bucket.cache_clear()
    try:
        for source in ("in", "in/*.tar", "in/{0..3}.tar", "in/0.tar"):
            with pytest.raises(PathUnavailable, match=says) as error:
                found(f"s3://{bucket_name}/{source}")
            assert "\n" not in str(error.value)
    finally:
        get_bucket.cache_clear()


def test_shards_in_a_bucket_are_read_looked_at_and_counted(bucket: str) -> None:
    place = location(bucket)
    sample = Sample(key="d/train/0", dataset="d", task="text", turns=(Turn(instruction="Hi?", response="Ho."),))
    write_shard(place / "t-00000.tar", [sample])
    (place / "ingest/t.json").put('{"rows_in": 3, "written": 1, "left_out": 0, "reasons": {"bad_json": 2}}')
    shards = shard_names(bucket)
    refuse_foreign(shards.values())
    assert read_shard(shards["t-00000"]) == [sample]
    annotations = annotations_of(ingests_of(shards.values()), {location(f"{bucket}/t-00000.tar"): 1})
    assert (annotations.rows, annotations.rows_in, annotations.quarantined) == (3, 1, {"bad_json": 2})
    (place / "t-00000.tar").put(b"no tar")
    with pytest.raises(PathUnavailable, match="was replaced since the job looked at it"):
        read_shard(shards["t-00000"])
    before = InputFile.at(shards["t-00000"])
    assert not before.is_still_at(place / "t-00000.tar") and before.is_still_at(shards["t-00000"])
