from __future__ import annotations

import random
from pathlib import Path

import pytest

from polite_flamingo.storage.duplicates import digest, encode_keys, find
from polite_flamingo.storage.location import write_atomically


def write(folder: Path, shards: dict[str, list[str]]) -> list[tuple[str, Path]]:
    files = []
    for name, keys in shards.items():
        write_atomically(folder / f"{name}.keys", encode_keys(keys))
        files.append((name, folder / f"{name}.keys"))
    return files


def test_the_first_shard_in_name_order_keeps_a_key(tmp_path: Path) -> None:
    shards = {"c": ["x", "y", "only-c"], "a": ["x", "only-a"], "b": ["x", "y"]}
    found = find(write(tmp_path, shards), scratch=tmp_path / "scratch")
    assert found.of("a") == frozenset()
    assert found.of("b") == {digest("x")}
    assert found.of("c") == {digest("x"), digest("y")}
    assert found.count == 3


@pytest.mark.parametrize("bucket_bytes", [1 << 20, 500])
def test_agrees_with_a_set_of_all_keys_whatever_the_buckets(tmp_path: Path, bucket_bytes: int) -> None:
    rng = random.Random(0)
    shards = {f"shard-{n:02d}": [f"k/{k}" for k in rng.sample(range(3000), 200)] for n in range(12)}
    found = find(write(tmp_path, shards), scratch=tmp_path / "scratch", bucket_bytes=bucket_bytes)
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
    assert find(files, scratch=tmp_path / "scratch").count == 1
    assert find(files, scratch=tmp_path / "scratch").of("b") == {digest("x")}
    again = find(files[1:], scratch=tmp_path / "scratch")
    assert (again.count, again.of("b")) == (0, frozenset())


def test_an_empty_shard_and_no_shards_have_no_duplicates(tmp_path: Path) -> None:
    assert find(write(tmp_path, {"a": [], "b": ["x"]}), scratch=tmp_path / "scratch").count == 0
    assert find([], scratch=tmp_path / "scratch").count == 0


def test_equal_keys_in_any_order_make_equal_files(tmp_path: Path) -> None:
    write(tmp_path, {"a": ["x", "y", "z"], "b": ["z", "x", "y"]})
    assert (tmp_path / "a.keys").read_bytes() == (tmp_path / "b.keys").read_bytes()


def test_says_which_key_file_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.keys"):
        find([("gone", tmp_path / "gone.keys")], scratch=tmp_path / "scratch")
    (tmp_path / "cut.keys").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"cut\.keys is not a file of keys"):
        find([("cut", tmp_path / "cut.keys")], scratch=tmp_path / "scratch")
