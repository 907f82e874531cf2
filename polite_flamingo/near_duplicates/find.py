"""Find, for each sample, the most similar sample before it: first in the order of shards' names keeps.

    near_text   estimated Jaccard similarity of the texts, among earlier samples that show the same pictures
    near_image  share of equal bits of the pictures' hashes, among all earlier samples; of several, the least similar

So the same question about another picture is no near-duplicate, nor is another question about the same picture; two
texts without pictures are compared with one another. Pictures are the same up to `pictures.SAME_BITS`, and samples show
the same ones if they do so one by one, in order.

Candidates come from locality-sensitive hashing: the MinHash is cut into `BANDS`, and samples with one equal band are
compared. All but a few pairs above 0.6 are found so, and fewer below; a sample without a candidate gets 0. Everything
lies in files on this machine's disk, about 190 bytes a sample with a picture, and is sorted in buckets (`buckets.py`).
Memory holds the scores, two bytes a sample.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polite_flamingo.near_duplicates.buckets import chunks, on_disk, sorted_by_key
from polite_flamingo.near_duplicates.pictures import compare_pictures
from polite_flamingo.near_duplicates.signatures import PERMUTATIONS, PICTURE_BITS, Signatures
from polite_flamingo.sample import Sample
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.location import Location

BANDS = 32
ROWS = PERMUTATIONS // BANDS
"""Bytes of a band. Two texts of similarity s have an equal band with probability 1 - (1 - s^4)^32: 0.99 for s = 0.6."""

NEIGHBOURS = 64
"""Most samples before it, in the order of one band, that a sample is compared with."""

READERS = 16
_NO_PICTURE = 255
_CHANCE = 1 / 256
"""Share of bytes that are equal in texts that have nothing in common."""

Scores = Sequence[Mapping[str, float]]
"""For each sample of a shard, in order, its scores `near_text` and, if it shows pictures, `near_image`."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """The result of `find`.

    Attributes:
        texts: equal bytes of the most similar earlier text.
        pictures: equal bits of the most similar earlier pictures.
        places: name of a shard -> number of its first sample, and number of its samples.
        unsigned: names of the shards without signatures, or with those of another method.
    """

    texts: np.ndarray
    pictures: np.ndarray
    places: Mapping[str, tuple[int, int]]
    unsigned: Sequence[str]

    def of(self, name: str) -> Scores:
        """Return the scores of a shard's samples; nothing if it has no signatures."""
        first, count = self.places.get(name, (0, 0))
        places = slice(first, first + count)
        return [
            _scores(text, picture)
            for text, picture in zip(self.texts[places].tolist(), self.pictures[places].tolist(), strict=True)
        ]


def _scores(equal_bytes: int, equal_bits: int) -> dict[str, float]:
    similarity = max(0.0, (equal_bytes / PERMUTATIONS - _CHANCE) / (1 - _CHANCE))
    pictures = {} if equal_bits == _NO_PICTURE else {"near_image": round(equal_bits / PICTURE_BITS, 4)}
    return {"near_text": round(similarity, 4), **pictures}


def with_scores(samples: Sequence[Sample], scores: Scores) -> Sequence[Sample]:
    """Return the samples of a shard with what `NearDuplicates.of` says of them."""
    if not scores:
        return samples
    return [
        dataclasses.replace(sample, scores={**sample.scores, **found})
        for sample, found in zip(samples, scores, strict=True)
    ]


def find(shards: Sequence[tuple[str, Location | None, int]], *, scratch: Path, made_by: str = "") -> NearDuplicates:
    """Compare all samples with those before them.

    Args:
        shards: name, signature file and number of samples of each shard.
        scratch: a folder on this machine's disk for temporary files; its contents are deleted.
        made_by: the method whose signatures are compared (`signatures.method`); by default the first shard's.

    Raises:
        ValueError: a signature file is damaged; the message names it.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    places: dict[str, tuple[int, int]] = {}
    unsigned = list[str]()
    ordered = sorted(shards, key=lambda shard: shard[0])
    total = pictures = 0
    names = ("texts", "counts", "pictures")
    with ExitStack() as stack:
        files = {name: stack.enter_context((scratch / name).open("wb")) for name in names}
        for (name, _, _), found in zip(ordered, in_order(_read, ordered, READERS), strict=True):
            made_by = made_by or (found.made_by if found else "")
            if found is None or found.made_by != made_by:
                unsigned.append(name)
                continue
            places[name] = total, len(found.counts)
            total += len(found.counts)
            pictures += len(found.pictures)
            for kind, file in files.items():
                file.write(np.ascontiguousarray(getattr(found, kind)).tobytes())
    try:
        scores = np.zeros(0, np.uint8), np.zeros(0, np.uint8)
        if total:
            texts = np.memmap(scratch / "texts", np.uint8, "r", shape=(total, PERMUTATIONS))
            counts = np.memmap(scratch / "counts", np.uint32, "r", shape=(total,))
            hashes = np.memmap(scratch / "pictures", np.uint64, "r") if pictures else np.zeros(0, np.uint64)
            shown, nearest = _compare_pictures(counts, hashes, scratch)
            scores = _compare_texts(texts, shown, scratch), nearest
        return NearDuplicates(texts=scores[0], pictures=scores[1], places=places, unsigned=unsigned)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(shard: tuple[str, Location | None, int]) -> Signatures | None:
    _, place, count = shard
    if place is None:
        return None
    remedy = "delete its shard's manifest and run the build again"
    try:
        found = Signatures.decode(place.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{place} is missing; {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{place} is damaged ({error}); {remedy}") from None
    if len(found.counts) != count:
        raise ValueError(f"{place} has {len(found.counts)} signatures, its manifest says {count}; {remedy}")
    return found


def _compare_pictures(counts: np.ndarray, hashes: np.ndarray, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sample a number that stands for the pictures it shows, and the bits equal to earlier ones."""
    owners = on_disk(scratch / "owners", np.int64, len(hashes))
    end = 0
    for rows in chunks(len(counts)):
        start, end = end, end + int(counts[rows].sum())
        owners[start:end] = np.repeat(rows, counts[rows])
    found = compare_pictures(hashes, owners, scratch)
    shown, nearest = on_disk(scratch / "shown", np.uint64, len(counts)), np.full(len(counts), _NO_PICTURE, np.uint8)
    end = 0
    for rows in chunks(len(counts)):
        start, end = end, end + int(counts[rows].sum())
        some = rows[counts[rows] > 0]
        if len(some):
            first = np.cumsum(counts[some], dtype=np.int64) - counts[some]
            places = np.arange(end - start) - np.repeat(first, counts[some])
            numbers = _mixed(found.groups[start:end].astype(np.uint64) + np.uint64(1), places)
            shown[some] = np.add.reduceat(numbers, first)
            nearest[some] = np.minimum.reduceat(found.equal_bits[start:end], first)
    return shown, nearest


def _compare_texts(texts: np.ndarray, shown: np.ndarray, scratch: Path) -> np.ndarray:
    """Return for each sample the bytes equal to those of the most similar earlier text with the same pictures."""
    count = len(texts)
    best = np.zeros(count, np.uint8)
    whole = ((_hash(texts[rows], shown[rows]), rows) for rows in chunks(count))
    for keys, rows in sorted_by_key(whole, count, scratch):
        best[rows[1:][keys[1:] == keys[:-1]]] = PERMUTATIONS
    for band in range(BANDS):
        entries = _band_keys(texts, shown, best, band)
        for found, rows in sorted_by_key(entries, count, scratch):
            keys, at = found >> np.uint64(32), np.arange(1, len(found))
            for distance in range(1, NEIGHBOURS + 1):
                at = at[at >= distance]
                at = at[keys[at] == keys[at - distance]]
                if not len(at):
                    break
                _compare(texts, shown, rows[at], rows[at - distance], best)
    return best


def _band_keys(
    texts: np.ndarray, shown: np.ndarray, best: np.ndarray, band: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a number for each sample that repeats no other, and the sample.

    Pictures and the band are above, the next band below, so that the most similar of those with an equal band meet.
    """
    after = (band + 1) % BANDS
    for rows in chunks(len(texts)):
        rows = rows[best[rows] < PERMUTATIONS]
        high = _hash(texts[rows, band * ROWS : (band + 1) * ROWS], shown[rows])
        low = _hash(texts[rows, after * ROWS : (after + 1) * ROWS], shown[rows])
        yield (high & np.uint64(0xFFFFFFFF00000000)) | (low >> np.uint64(32)), rows


def _compare(texts: np.ndarray, shown: np.ndarray, left: np.ndarray, right: np.ndarray, best: np.ndarray) -> None:
    same = shown[left] == shown[right]
    left, right = left[same], right[same]
    for rows in chunks(len(left)):
        equal = np.count_nonzero(texts[left[rows]] == texts[right[rows]], axis=1).astype(np.uint8)
        np.maximum.at(best, np.maximum(left[rows], right[rows]), equal)


def _hash(rows: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of each row of bytes and a number."""
    words = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    return _mixed(_mixed(words, np.arange(words.shape[1])).sum(axis=1, dtype=np.uint64) ^ shown, 0)


def _mixed(numbers: np.ndarray, place: np.ndarray | int) -> np.ndarray:
    """Scatter 64-bit numbers (the finaliser of splitmix64), differently for each place."""
    with np.errstate(over="ignore"):
        mixed = numbers + (np.asarray(place, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))
