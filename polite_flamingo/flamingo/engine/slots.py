"""KV slots: the rows of one static key/value cache, the request in each row, and the image that each row sees.

Rows that decode come first, then rows whose prompt is still running, then free rows. So a step takes the first rows of
every buffer and gathers nothing. When a row is freed, the last row of its kind moves into the gap. Who gets a slot is
decided in `scheduler.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import ImageKV, KVCache

_GROWTH = 64
"""A cache's capacity is a multiple of this many positions."""

VisibleImages = tuple[Tensor, Tensor, Tensor]
"""Keys and values (layers, S, H, N, E) of the image that each row sees while decoding, and 1 or 0 for whether it sees
one (S, 1, 1)."""


class Slots:
    """Rows of the KV cache and the requests that hold them.

    Attributes:
        count: number of slots.
        rows: requests that hold a slot, in the order of the cache's rows.
        decoding: how many of them decode; the others still run their prompts.
        cache: the KV cache; None until the first request gets a slot.
        images: what each row sees; None until the first request with an image gets a slot.
        sees_images: whether a decoding row may see an image; never in v1.
        has_shared_row: whether the cache's extra last row holds the prefix that all prompts share. Every row then reads
            it from one place, which stays in the CPU's cache.
    """

    def __init__(self, decoder: Decoder, count: int):
        """Args: decoder: the slots hold its keys and values."""
        self._decoder = decoder
        self.count = count
        self.clear()

    def clear(self) -> None:
        """Drop all requests and release the memory."""
        self.rows: list[Request] = []
        self.decoding = 0
        self.cache: KVCache | None = None
        self.images: VisibleImages | None = None
        self.sees_images = self.has_shared_row = False

    @property
    def free_count(self) -> int:
        """Slots that no request holds."""
        return self.count - len(self.rows)

    def allocate(self, requests: Sequence[Request], waiting: Iterable[Request]) -> bool:
        """Grow the buffers so that they hold these requests too; return whether one was reallocated.

        While the cache grows, the old and the new one are both in memory. It therefore grows for all waiting requests
        at once.
        """
        needed, old, reallocated = self._positions(requests), self.cache, False
        if old is None or old.capacity < needed:
            needed = max(needed, self._positions(waiting))
            self.cache = self._decoder.new_cache(self.count + (1 if self._decoder.compiled else 0), needed)
            if old is not None:
                self.cache.data[:, :, :, :, : old.capacity] = old.data
            reallocated = True
        if self.images is None and (first := next((r.image_kvs[0] for r in requests if r.image_kvs), None)) is not None:
            shape = (first.keys.shape[0], self.count, *first.keys.shape[1:])
            keys, values = torch.zeros(2, *shape, dtype=first.keys.dtype, device=first.keys.device)
            self.images = keys, values, torch.zeros(self.count, 1, 1, dtype=keys.dtype, device=keys.device)
            reallocated = True
        return reallocated

    def _positions(self, requests: Iterable[Request]) -> int:
        """Return how many positions the longest of these requests may need, rounded up."""
        longest = max((len(request.ids) + request.params.max_new_tokens for request in requests), default=0)
        return min(-(-longest // _GROWTH) * _GROWTH, self._decoder.positions)

    def show_image(self, row: int, image: ImageKV | None) -> None:
        """Set the image that a row sees while it decodes."""
        if self.images is None:
            return
        keys, values, visible = self.images
        visible[row] = float(image is not None)
        if image is not None:
            keys[:, row], values[:, row] = image.keys, image.values
            self.sees_images = True

    def visible_images(self, count: int) -> VisibleImages | None:
        """Return what the first `count` rows see; None if no decoding row sees an image."""
        if self.images is None or not self.sees_images:
            return None
        keys, values, visible = self.images
        return keys[:, :count], values[:, :count], visible[:count]

    def move_to_front(self, prefilled: Sequence[int]) -> None:
        """Move rows whose prompts are complete before the rows that still run theirs."""
        target = self.decoding
        for row in prefilled:
            self._swap(row, target)
            target += 1

    def free(self, row: int) -> None:
        """Free a row. Other rows move so that decoding rows come first and free rows last.

        If the row was decoding, the last decoding row moves into its place; the last used row fills what is then empty.
        """
        if row < self.decoding:
            self._swap(row, self.decoding - 1)
            row = self.decoding - 1
            self.decoding -= 1
        self._swap(row, len(self.rows) - 1)
        self.rows.pop()
        if not self.decoding:
            self.sees_images = False

    def _swap(self, row: int, other: int) -> None:
        """Exchange two rows. The contents of a finished request's row are not preserved."""
        if row == other:
            return
        assert self.cache is not None
        first, second = self.rows[row], self.rows[other]
        ours, theirs = first.num_computed_tokens, second.num_computed_tokens
        if not first.done and not second.done:
            self.cache.swap(row, other, max(ours, theirs))
        elif not second.done:
            self.cache.prefix(row, theirs).copy_(self.cache.prefix(other, theirs))
        elif not first.done:
            self.cache.prefix(other, ours).copy_(self.cache.prefix(row, ours))
        self.rows[row], self.rows[other] = second, first
        if self.images is not None:
            keys, values, visible = self.images
            for part in (keys, values):
                part[:, [row, other]] = part[:, [other, row]]
            visible[[row, other]] = visible[[other, row]]
