"""Batches for the filters' models: which texts run, and which share a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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

    def too_much(batch: list[int]) -> bool:
        tokens = sum(lengths[index] for index in batch)
        return len(batch) > batch_size or lengths[batch[0]] * len(batch) - tokens > 16 + tokens // 16

    return _longest_first(lengths, too_much)


def by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the indices of all lengths, longest first, in batches of at most `tokens` tokens or of one longer text."""
    return _longest_first(lengths, lambda batch: sum(lengths[index] for index in batch) > tokens)


def _longest_first(lengths: Sequence[int], too_much: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """Yield the indices of all lengths; a batch ends before an index that would make it too much."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and too_much([*batch, index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
