from __future__ import annotations

import random
from pathlib import Path

import pytest

from polite_flamingo.storage.duplicates import Duplicates, digest, encode_keys, find
from polite_flamingo.storage.location import Location, location


def write(folder: Path | str, shards: dict[str, list[str]]) -> list[tuple[str, Location, int]]:
    files = []
    for name, keys in shards.items():
        files.append((name, location(folder) / f"{name}.keys", len({*keys})))
        files[-1][1].put(encode_keys(keys))
    return files


def found_in(files: list[tuple[str, Location, int]], folder: Path, **options: int) -> Duplicates:
    return find(files, scratch=folder / "scratch", **options)


def test_the_first_shard_in_name_order_keeps_a_key(tmp_path: Path) -> None:
    shards = {"c": ["x", "y", "only-c"], "a": ["x", "only-a"], "b": ["x", "y"]}
    found = found_in(write(tmp_path, shards), tmp_path)
    assert found.of("a") == frozenset()
    assert found.of("b") == {digest("x")}
    assert found.of("c") == {digest("x"), digest("y")}
    assert found.count == 3


def test_keys_in_a_bucket_are_found_through_this_machine_s_disk(tmp_path: Path, bucket: str) -> None:
    files = write(bucket, {"a": ["x", "only-a"], "b": ["x", "y"]})
    assert found_in(files, tmp_path).of("b") == {digest("x")}
    with pytest.raises(ValueError, match=r"s3://.*gone\.keys cannot be read"):
        find([*files, ("c", location(bucket) / "gone.keys", 1)], scratch=tmp_path / "scratch")


@pytest.mark.parametrize("bucket_bytes", [1 << 20, 500])
def test_agrees_with_a_set_of_all_keys_whatever_the_buckets(tmp_path: Path, bucket_bytes: int) -> None:
    rng = random.Random(0)
    shards = {f"shard-{n:02d}": [f"k/{k}" for k in rng.sample(range(3000), 200)] for n in range(12)}
    found = found_in(write(tmp_path, shards), tmp_path, bucket_bytes=bucket_bytes)
    seen: set[str] = set()
    total = 0
    for name in sorted(shards):
        expected = {digest(key) for key in shards[name] if key in seen}
        assert found.of(name) == expected
        total += len(expected)
        seen |= set(shards[name])
    assert found.count == total > 300
    assert len(seen) + total == 12 * 200


def test_finding_again_forgets_what_was_found_before(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": ["x"], "b": ["x"]})
    assert found_in(files, tmp_path).count == 1
    assert found_in(files, tmp_path).of("b") == {digest("x")}
    again = found_in(files[1:], tmp_path)
    assert (again.count, again.of("b")) == (0, frozenset())


def test_an_empty_shard_and_no_shards_have_no_duplicates(tmp_path: Path) -> None:
    assert found_in(write(tmp_path, {"a": [], "b": ["x"]}), tmp_path).count == 0
    assert found_in([], tmp_path).count == 0


def test_equal_keys_in_any_order_make_equal_files() -> None:
    assert encode_keys(["x", "y", "z"]) == encode_keys(["z", "x", "y"])


def test_says_which_key_file_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.keys"):
        find([("gone", location(tmp_path / "gone.keys"), 1)], scratch=tmp_path / "scratch")
    for cut in (b"", b"123", digest("x")):
        (tmp_path / "cut.keys").write_bytes(cut)
        with pytest.raises(ValueError, match=r"cut\.keys is not a file of 2 keys; delete its shard's manifest"):
            find([("cut", location(tmp_path / "cut.keys"), 2)], scratch=tmp_path / "scratch")
