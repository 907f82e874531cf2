"""Find pictures that are nearly equal: perceptual hashes that differ in few of their 64 bits.

The hashes are sorted 56 times, each time by another choice of three of their eight bytes. Two hashes that differ in up
to five bits agree in three bytes at least, so one of the orders puts them side by side. Pairs that differ more
are found by chance, down to `MOST_BITS`. Everything is held in memory: about 40 bytes a picture.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from polite_flamingo.near_duplicates.signatures import PICTURE_BITS

SAME_BITS = 5
"""Pictures whose hashes differ in no more bits count as the same one; all such pairs are found."""

MOST_BITS = 12
"""Pairs that differ in more bits are not noted."""

NEIGHBOURS = 64
"""Most hashes before it, in one order, that a hash is compared with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What is known of the pictures of samples.

    Attributes:
        groups: for each picture a number that it shares with those that are the same, by single linkage.
        equal_bits: for each picture, the equal bits of the most similar picture of an earlier sample; 0 if none.
    """

    groups: np.ndarray
    equal_bits: np.ndarray


def compare_pictures(hashes: np.ndarray, owners: np.ndarray) -> Pictures:
    """Compare pictures.

    Args:
        hashes: of all pictures, sample after sample.
        owners: for each, the number of its sample.
    """
    different, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    first_owner = owners[first]
    nearest = np.zeros(len(different), np.uint8)
    parent = np.arange(len(different))
    for chosen in itertools.combinations(range(PICTURE_BITS // 8), 3):
        order = np.argsort(_with_bytes_first(different, chosen), kind="stable")
        _compare_neighbours(different, order, _mask(chosen), first_owner, nearest, parent)
        parent = _roots(parent)
    seen = first_owner[which] < owners
    return Pictures(groups=parent[which], equal_bits=np.where(seen, PICTURE_BITS, nearest[which]).astype(np.uint8))


def _with_bytes_first(hashes: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    rest = [place for place in range(PICTURE_BITS // 8) if place not in chosen]
    return np.ascontiguousarray(_bytes(hashes)[:, [*chosen, *rest]]).view(">u8").ravel().astype(np.uint64)


def _bytes(hashes: np.ndarray) -> np.ndarray:
    return hashes.astype(">u8").view(np.uint8).reshape(-1, PICTURE_BITS // 8)


def _mask(chosen: tuple[int, ...]) -> np.uint64:
    return np.uint64(sum(0xFF << (PICTURE_BITS - 8 - 8 * place) for place in chosen))


def _compare_neighbours(
    hashes: np.ndarray, order: np.ndarray, mask: np.uint64, first_owner: np.ndarray, nearest: np.ndarray,
    parent: np.ndarray,
) -> None:  # fmt: skip
    """Compare each hash with those before it in an order that have the same chosen bytes."""
    ordered = hashes[order]
    keys = ordered & mask
    at = np.arange(1, len(order))
    for distance in range(1, NEIGHBOURS + 1):
        at = at[at >= distance]
        at = at[keys[at] == keys[at - distance]]
        if not len(at):
            return
        bits = np.bitwise_count(ordered[at] ^ ordered[at - distance])
        near = bits <= MOST_BITS
        one, other, found = order[at[near]], order[at[near] - distance], (PICTURE_BITS - bits[near]).astype(np.uint8)
        one_is_later = first_owner[one] > first_owner[other]
        np.maximum.at(nearest, one[one_is_later], found[one_is_later])
        other_is_later = first_owner[other] > first_owner[one]
        np.maximum.at(nearest, other[other_is_later], found[other_is_later])
        same = (found >= PICTURE_BITS - SAME_BITS) & (parent[one] != parent[other])
        for left, right in zip(one[same].tolist(), other[same].tolist(), strict=True):
            _join(parent, left, right)


def _join(parent: np.ndarray, left: int, right: int) -> None:
    """Put two hashes into one group, which is named after its smallest number."""
    left, right = _root(parent, left), _root(parent, right)
    parent[max(left, right)] = min(left, right)


def _root(parent: np.ndarray, number: int) -> int:
    while (above := int(parent[number])) != number:
        parent[number] = parent[above]
        number = above
    return number


def _roots(parent: np.ndarray) -> np.ndarray:
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above
