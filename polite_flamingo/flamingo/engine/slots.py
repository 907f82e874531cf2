"""The engine's slots: rows of one static key/value cache, which request has which, and what image each row sees.

Rows that decode come first, behind them those whose prompt is still being run, behind those the free ones: so a step
takes the first rows of every buffer, and nothing is gathered. A row that falls free is filled with the last of its
kind. Nothing is decided here about who gets a slot; `engine.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.model.decoder import Cache, Decoder, Media

_ROUND = 64
"""Positions by which a cache grows."""

Shown = tuple[Tensor, Tensor, Tensor]
"""Keys and values (layers, S, H, N, E) of the image that each row sees while decoding; whether it does, (S, 1, 1)."""


class Slots:
    """See the module.

    Attributes:
        count: of slots.
        rows: the requests that have one, in the order of the cache's rows.
        decoding: how many of them decode.
        cache: None until the first request has a slot.
        shown: None until the first request with an image has one.
        blind: no row that decodes sees an image; in v1 none ever does.
        sharing: the cache's last row, which is nobody's slot, holds the tokens that all prompts begin with: read in one
            place, they stay in the CPU's own cache.
    """

    def __init__(self, decoder: Decoder, count: int):
        """Args: decoder: whose keys and values they hold."""
        self._decoder = decoder
        self.count = count
        self.clear()

    def clear(self) -> None:
        """Hold nothing, no memory either."""
        self.rows: list[Request] = []
        self.decoding = 0
        self.cache: Cache | None = None
        self.shown: Shown | None = None
        self.blind, self.sharing = True, False

    def make_room(self, requests: Sequence[Request], waiting: Iterable[Request]) -> bool:
        """Let the buffers hold these too; tell whether any was made anew.

        While the cache grows there are two of it; so it grows at once for all that wait.
        """
        needed, old, made = self._positions(requests), self.cache, False
        if old is None or old.capacity < needed:
            needed = max(needed, self._positions(waiting))
            self.cache = self._decoder.new_cache(self.count + (1 if self._decoder.compiled else 0), needed)
            if old is not None:
                self.cache.data[:, :, :, :, : old.capacity] = old.data
            made = True
        if self.shown is None and (first := next((r.media[0] for r in requests if r.media), None)) is not None:
            shape = (first.keys.shape[0], self.count, *first.keys.shape[1:])
            keys, values = torch.zeros(2, *shape, dtype=first.keys.dtype, device=first.keys.device)
            self.shown = keys, values, torch.zeros(self.count, 1, 1, dtype=keys.dtype, device=keys.device)
            made = True
        return made

    def _positions(self, requests: Iterable[Request]) -> int:
        """That the longest of them may take, rounded up."""
        longest = max((len(request.ids) + request.decoding.max_new_tokens for request in requests), default=0)
        return min(-(-longest // _ROUND) * _ROUND, self._decoder.positions)

    def show(self, row: int, media: Media | None) -> None:
        """Let a row see this image while it decodes."""
        if self.shown is None:
            return
        keys, values, flags = self.shown
        flags[row] = float(media is not None)
        if media is not None:
            keys[:, row], values[:, row] = media.keys, media.values
            self.blind = False

    def seen(self, count: int) -> Shown | None:
        """What the first rows see; None where none of those that decode sees anything."""
        if self.shown is None or self.blind:
            return None
        keys, values, flags = self.shown
        return keys[:, :count], values[:, :count], flags[:count]

    def bring_forward(self, finished: Sequence[int]) -> None:
        """Bring the rows that are complete before those that are not; mostly they are there already."""
        target = self.decoding
        for row in finished:
            if row != target:
                self._swap(row, target)
            target += 1

    def free(self, row: int) -> None:
        """Close the gap: the last decoding row moves into it, and the last of all behind that."""
        if row < self.decoding:
            self._swap(row, self.decoding - 1)
            row = self.decoding - 1
            self.decoding -= 1
        self._swap(row, len(self.rows) - 1)
        self.rows.pop()
        if not self.decoding:
            self.blind = True

    def _swap(self, row: int, other: int) -> None:
        """Exchange two rows; what the row of a request that is done holds is of no use."""
        if row == other:
            return
        assert self.cache is not None
        first, second = self.rows[row], self.rows[other]
        if not first.done and not second.done:
            self.cache.exchange(row, other, max(first.ready, second.ready))
        elif not second.done:
            self.cache.beginning(row, second.ready).copy_(self.cache.beginning(other, second.ready))
        elif not first.done:
            self.cache.beginning(other, first.ready).copy_(self.cache.beginning(row, first.ready))
        self.rows[row], self.rows[other] = second, first
        if self.shown is not None:
            for part in self.shown[:2]:
                part[:, [row, other]] = part[:, [other, row]]
            flags = self.shown[2]
            flags[[row, other]] = flags[[other, row]]
