"""Find keys that occur in more than one shard, without holding all keys in memory.

Committing a shard writes its keys beside it as sorted 128-bit digests (`encode_keys`). `find` splits the files of all
shards into buckets on this machine's disk by the first bits of the digests, sorts one bucket at a time, and writes for
each shard the digests it must reject: the first shard by name keeps a key. A billion keys take 20 GB of scratch space
and a hundred megabytes of memory. 64 bits would not be enough: among a billion keys, two would share a digest with
probability 1 in 37, and a good sample would be lost.

Duplicates inside one shard are quarantined by its reader; no tar is opened here.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.visibility import PathUnavailable

DIGEST_BYTES = 16
BUCKET_BYTES = 64 << 20
READERS = 16
"""Key files that are read at once."""
_KEY = np.dtype([("high", ">u8"), ("low", ">u8")])
_ENTRY = np.dtype([("high", ">u8"), ("low", ">u8"), ("shard", "<u4")])


def digest(key: str) -> bytes:
    """Return 128 bits that identify a key."""
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def encode_keys(keys: Iterable[str]) -> bytes:
    """Return the digests of a shard's keys, sorted: equal keys in any order make equal files."""
    return b"".join(sorted({digest(key) for key in keys}))


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The result of `find`: `folder` has a file for each shard that must reject keys, `count` keys in total."""

    folder: Path
    count: int

    def of(self, name: str) -> frozenset[bytes]:
        """Return the digests of the keys that shard `name` must reject because an earlier shard has them."""
        path = self.folder / f"{name}.rejected"
        if not path.exists():
            return frozenset()
        data = path.read_bytes()
        return frozenset(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES))


def find(shards: Iterable[tuple[str, Location, int]], *, scratch: Path, bucket_bytes: int = BUCKET_BYTES) -> Duplicates:
    """Find the keys that occur in several shards.

    Args:
        shards: name, key file and number of keys of each shard, in any order.
        scratch: a folder on this machine's disk for temporary files; its contents are deleted first.
        bucket_bytes: roughly the most that is sorted at once.

    Raises:
        ValueError: a key file is missing or damaged; the message names it.
    """
    ordered = sorted(shards, key=lambda shard: shard[0])
    shutil.rmtree(scratch, ignore_errors=True)
    buckets, rejected = scratch / "buckets", scratch / "rejected"
    buckets.mkdir(parents=True)
    rejected.mkdir()
    keys = sum(count for *_, count in ordered)
    bits = min(9, (max(1, keys * _ENTRY.itemsize) // bucket_bytes).bit_length())  # 512 open files at most
    _distribute(ordered, buckets, bits)
    count = sum(_reject(bucket, ordered, rejected) for bucket in sorted(buckets.iterdir()))
    shutil.rmtree(buckets)
    return Duplicates(folder=rejected, count=count)


def _read_keys(shard: tuple[str, Location, int]) -> np.ndarray:
    _, file, count = shard
    remedy = "delete its shard's manifest and run the build again"
    try:
        data = file.read_bytes()
    except PathUnavailable:
        raise  # the store's own words
    except OSError as error:
        why = error.strerror or "it does not exist"
        raise ValueError(f"{file} cannot be read ({why}); {remedy}") from None
    if len(data) != count * DIGEST_BYTES:
        raise ValueError(f"{file} is not a file of {count} keys; {remedy}")
    return np.frombuffer(data, dtype=_KEY)


def _distribute(shards: Sequence[tuple[str, Location, int]], buckets: Path, bits: int) -> None:
    """Append every digest, with its shard's number, to the bucket given by its first bits."""
    with ExitStack() as stack:
        opened = [stack.enter_context((buckets / f"{number:03d}").open("wb")) for number in range(1 << bits)]
        for shard, keys in enumerate(in_order(_read_keys, shards, READERS)):
            entries = np.empty(len(keys), dtype=_ENTRY)
            entries["high"], entries["low"], entries["shard"] = keys["high"], keys["low"], shard
            first_bits = (keys["high"] >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(keys), int)
            for number in np.unique(first_bits):
                opened[number].write(entries[first_bits == number].tobytes())


def _reject(bucket: Path, ordered: Sequence[tuple[str, Location, int]], folder: Path) -> int:
    """Sort one bucket; of equal digests, all but the first shard's go to the files of their shards."""
    entries = np.fromfile(bucket, dtype=_ENTRY)
    entries = entries[np.lexsort((entries["shard"], entries["low"], entries["high"]))]
    again = np.zeros(len(entries), dtype=bool)
    again[1:] = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    later = entries[again]
    later = later[np.argsort(later["shard"], kind="stable")]
    numbers, starts = np.unique(later["shard"], return_index=True)
    for number, chosen in zip(numbers, np.split(later, starts[1:]), strict=bool(len(numbers))):
        keys = np.empty(len(chosen), dtype=_KEY)
        keys["high"], keys["low"] = chosen["high"], chosen["low"]
        with (folder / f"{ordered[number][0]}.rejected").open("ab") as file:
            file.write(keys.tobytes())
    return len(later)
