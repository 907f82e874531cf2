"""Which texts are run, and which share a forward pass: those of like length, or as many as stay in the cache."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def distinct(items: Iterable[Item]) -> list[Item]:
    """Each once, in the order of its first appearance."""
    return list(dict.fromkeys(items))


def like_lengths(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The places of all lengths in batches of at most `batch_size`, longest first, with hardly any padding.

    A batch ends where its padding would be more than a sixteenth of its tokens and sixteen more. A processor multiplies
    thirty tokens at once as fast as a thousand: there a small batch costs less than padding.
    """
    batch: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        more = tokens + lengths[place]
        if batch and (len(batch) == batch_size or lengths[batch[0]] * (len(batch) + 1) - more > 16 + more // 16):
            yield batch
            batch, more = [], lengths[place]
        batch.append(place)
        tokens = more
    if batch:
        yield batch


def by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The places of all lengths, longest first, in batches of at most `tokens` and of at least one text."""
    batch: list[int] = []
    room = tokens
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and lengths[place] > room:
            yield batch
            batch, room = [], tokens
        batch.append(place)
        room -= lengths[place]
    if batch:
        yield batch
