"""Arrays and sorting on this machine's disk, so that memory does not grow with the number of samples."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

BUCKET_BYTES = 64 << 20
"""Roughly the most that is sorted at once."""

CHUNK = 1 << 16
"""Entries that are worked on at once."""

_ENTRY = np.dtype([("key", "<u8"), ("row", "<i8")])


def on_disk(place: Path, kind: type[np.generic], count: int) -> np.ndarray:
    """Return an array of zeros that lies in a new file; the system keeps as much of it in memory as it likes."""
    return np.memmap(place, kind, "w+", shape=(count,)) if count else np.zeros(0, kind)


def chunks(count: int) -> Iterator[np.ndarray]:
    """Yield the numbers from 0 on in chunks."""
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def sorted_by_key(
    entries: Iterable[tuple[np.ndarray, np.ndarray]], total: int, scratch: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sort numbers of rows by 64-bit keys.

    Args:
        entries: keys and rows in chunks, the rows in ascending order.
        total: number of entries at most.
        scratch: a folder on this machine's disk for temporary files.

    Yields:
        Keys and rows, sorted, in parts; keys that agree in their first 9 bits are in one part.
    """
    bits = min(9, (total * _ENTRY.itemsize // BUCKET_BYTES).bit_length())
    if not bits:
        parts = [*entries]
        if parts:
            yield _sorted(np.concatenate([keys for keys, _ in parts]), np.concatenate([rows for _, rows in parts]))
        return
    folder = scratch / "buckets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with ExitStack() as stack:
        opened = [stack.enter_context((folder / f"{number:03d}").open("wb")) for number in range(1 << bits)]
        for keys, rows in entries:
            numbers = (keys >> np.uint64(64 - bits)).astype(np.int64)
            found = np.empty(len(keys), _ENTRY)
            found["key"], found["row"] = keys, rows
            for number in np.unique(numbers):
                opened[number].write(found[numbers == number].tobytes())
    for path in sorted(folder.iterdir()):
        found = np.fromfile(path, _ENTRY)
        path.unlink()
        if len(found):
            yield _sorted(found["key"], found["row"])


def _sorted(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]
