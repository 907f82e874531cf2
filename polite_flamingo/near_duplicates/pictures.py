"""Find pictures that are nearly equal: perceptual hashes that differ in few of their 64 bits.

The hashes are sorted 56 times, each time by another choice of three of their eight bytes. Two hashes that differ in up
to five bits agree in three bytes at least, so one of the orders puts them side by side. Pairs that differ more are
found by chance, down to `MOST_BITS`. Equal hashes are compared once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polite_flamingo.near_duplicates.buckets import chunks, on_disk, sorted_by_key
from polite_flamingo.near_duplicates.signatures import PICTURE_BITS

SAME_BITS = 5
"""Pictures whose hashes differ in no more bits count as the same one; all such pairs are found."""

MOST_BITS = 12
"""Pairs that differ in more bits are not noted."""

NEIGHBOURS = 64
"""Most hashes before it, in one order, that a hash is compared with."""

BYTES = PICTURE_BITS // 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What is known of the pictures of samples; both lie on disk.

    Attributes:
        groups: for each picture a number that it shares with those that are the same, by single linkage.
        equal_bits: for each picture, the equal bits of the most similar picture of an earlier sample; 0 if none.
    """

    groups: np.ndarray
    equal_bits: np.ndarray


def compare_pictures(hashes: np.ndarray, owners: np.ndarray, scratch: Path) -> Pictures:
    """Compare pictures.

    Args:
        hashes: of all pictures, sample after sample.
        owners: for each, the number of its sample.
        scratch: a folder on this machine's disk for temporary files.
    """
    count = len(hashes)
    first = on_disk(scratch / "first", np.int64, count)
    nearest = on_disk(scratch / "nearest", np.uint8, count)
    groups = on_disk(scratch / "groups", np.int64, count)
    for keys, rows in sorted_by_key(((hashes[rows], rows) for rows in chunks(count)), count, scratch):
        new = np.concatenate([[True], keys[1:] != keys[:-1]])
        first[rows] = rows[new][np.cumsum(new) - 1]
    for rows in chunks(count):
        groups[rows] = rows
    for chosen in itertools.combinations(range(BYTES), 3):
        entries = _different(hashes, first, chosen)
        for keys, rows in sorted_by_key(entries, count, scratch):
            _compare_neighbours(keys, rows, owners, nearest, groups)
    _flatten(groups)
    for rows in chunks(count):
        seen = owners[first[rows]] < owners[rows]
        nearest[rows] = np.where(seen, PICTURE_BITS, nearest[first[rows]])  # nothing changes where it is the first
        groups[rows] = groups[first[rows]]
    return Pictures(groups=groups, equal_bits=nearest)


def _different(
    hashes: np.ndarray, first: np.ndarray, chosen: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the different hashes with the chosen bytes in front, and the first picture that has each."""
    order = [*chosen, *(place for place in range(BYTES) if place not in chosen)]
    for rows in chunks(len(hashes)):
        own = rows[first[rows] == rows]
        split = hashes[own].astype(">u8").view(np.uint8).reshape(-1, BYTES)
        yield np.ascontiguousarray(split[:, order]).view(">u8").ravel().astype(np.uint64), own


def _compare_neighbours(
    keys: np.ndarray, rows: np.ndarray, owners: np.ndarray, nearest: np.ndarray, groups: np.ndarray
) -> None:
    """Compare each hash with those before it that have the same three first bytes."""
    begins = keys >> np.uint64(PICTURE_BITS - 24)
    at = np.arange(1, len(keys))
    for distance in range(1, NEIGHBOURS + 1):
        at = at[at >= distance]
        at = at[begins[at] == begins[at - distance]]
        if not len(at):
            return
        bits = np.bitwise_count(keys[at] ^ keys[at - distance])
        near = bits <= MOST_BITS
        one, other, found = rows[at[near]], rows[at[near] - distance], (PICTURE_BITS - bits[near]).astype(np.uint8)
        for later, earlier in ((one, other), (other, one)):
            counts = owners[later] > owners[earlier]
            np.maximum.at(nearest, later[counts], found[counts])
        same = (found >= PICTURE_BITS - SAME_BITS) & (groups[one] != groups[other])
        for left, right in zip(one[same].tolist(), other[same].tolist(), strict=True):
            _join(groups, left, right)


def _join(groups: np.ndarray, left: int, right: int) -> None:
    """Put two pictures into one group, which is named after its first."""
    left, right = _root(groups, left), _root(groups, right)
    groups[max(left, right)] = min(left, right)


def _root(groups: np.ndarray, number: int) -> int:
    while (above := int(groups[number])) != number:
        groups[number] = groups[above]
        number = above
    return number


def _flatten(groups: np.ndarray) -> None:
    """Name every picture's group after the first of all."""
    changed = True
    while changed:
        changed = False
        for rows in chunks(len(groups)):
            above = groups[groups[rows]]
            changed = changed or bool((above != groups[rows]).any())
            groups[rows] = above
