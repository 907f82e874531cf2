"""Batches for the filters' models: which texts run, and which share a forward pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def distinct(items: Iterable[Item]) -> list[Item]:
    """Drop duplicates, keeping the order of first appearance."""
    return list(dict.fromkeys(items))


def by_similar_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of all lengths in batches of at most `batch_size`, longest first, with little padding.

    A batch ends before its padding would exceed a sixteenth of its tokens plus sixteen. On a CPU thirty tokens are
    multiplied as fast, per token, as a thousand, so a small batch costs less than padding.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        total = tokens + lengths[index]
        if batch and (len(batch) == batch_size or lengths[batch[0]] * (len(batch) + 1) - total > 16 + total // 16):
            yield batch
            batch, total = [], lengths[index]
        batch.append(index)
        tokens = total
    if batch:
        yield batch


def by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the indices of all lengths, longest first, in batches of at most `tokens` tokens or of one longer text."""
    batch: list[int] = []
    room = tokens
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[index] > room:
            yield batch
            batch, room = [], tokens
        batch.append(index)
        room -= lengths[index]
    if batch:
        yield batch
