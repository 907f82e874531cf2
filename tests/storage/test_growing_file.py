"""A file grows under its readers, on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from polite_flamingo.storage import growing_file
from polite_flamingo.storage.growing_file import PUT_SECONDS, REST, GrowingFile
from polite_flamingo.storage.location import Location, location


def test_on_a_disk_every_write_is_seen_at_once(tmp_path: Path) -> None:
    place = location(tmp_path / "log")
    place.put("an earlier run's")
    file = GrowingFile(place, b"1\n")
    file.write(b"2\n")
    assert place.read_text() == "1\n2\n"
    file.close()


def test_in_a_bucket_putting_never_takes_more_than_a_twentieth_of_the_time(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, clock, puts = location(bucket) / "log", [100.0], [0]
    put = Location.put

    def slow(self: Location, data: bytes | str) -> None:
        clock[0] += 10.0
        puts[0] += 1
        put(self, data)

    monkeypatch.setattr(growing_file, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    file = GrowingFile(place, b"0\n")
    monkeypatch.setattr(Location, "put", slow)
    file.write(b"1\n")
    assert place.read_text() == "0\n" and puts == [0]
    clock[0] += PUT_SECONDS
    file.write(b"2\n")
    assert place.read_text() == "0\n1\n2\n" and puts == [1]
    clock[0] += 10 * REST - 1
    file.write(b"3\n")
    assert puts == [1]
    clock[0] += 1
    file.write(b"4\n")
    assert puts == [2]
    file.write(b"5\n")
    file.close()
    assert place.read_text() == "0\n1\n2\n3\n4\n5\n" and puts == [3]
