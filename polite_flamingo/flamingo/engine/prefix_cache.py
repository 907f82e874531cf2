"""Beginnings of prompts whose keys and values are kept, to be copied rather than run again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from torch import Tensor

from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.slots import Slots

_Key = tuple[tuple[int, ...], tuple[str, ...]]
"""The tokens and the images among them."""


class Prefixes:
    """The most recently used ones: the tokens that all prompts begin with, and prompts up to their last image."""

    def __init__(self, limit: int, *, shared: Sequence[int], image_id: int):
        """Args: limit: so many are kept. shared: that all prompts begin with. image_id: the tag's token."""
        self._limit, self._shared, self._image_id = limit, list(shared), image_id
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def reuse(self, request: Request, row: int, slots: Slots) -> int:
        """Copy the longest kept beginning of its prompt into a row; return how many tokens that are."""
        assert slots.cache is not None
        for key in self._keys(request):
            if key in self._kept:
                self._kept.move_to_end(key)
                beginning = self._kept[key]
                slots.cache.beginning(row, beginning.shape[3]).copy_(beginning)
                return beginning.shape[3]
        return 0

    def keep(self, request: Request, row: int, slots: Slots, waiting: Iterable[Request]) -> None:
        """Its row has run the prompt: keep of it what others will want."""
        cache = slots.cache
        assert cache is not None
        for key in self._keys(request):
            size = len(key[0])
            if not key[1] and cache.rows > slots.count:
                if not slots.sharing:
                    cache.beginning(cache.rows - 1, size).copy_(cache.beginning(row, size))
                    slots.sharing = True
                request.shared = size
            if key not in self._kept and (not key[1] or any(one.digests == key[1] for one in waiting)):
                self._kept[key] = cache.beginning(row, size).clone()
                if len(self._kept) > self._limit:
                    self._kept.popitem(last=False)

    def _keys(self, request: Request) -> list[_Key]:
        """The beginnings worth keeping, the longest first."""
        keys: list[_Key] = []
        if not self._limit:
            return keys
        if request.images:
            end = len(request.ids) - request.ids[::-1].index(self._image_id)
            if end < len(request.ids):
                keys.append((tuple(request.ids[:end]), request.digests))
        size = len(self._shared)
        if 0 < size < len(request.ids) and request.ids[:size] == self._shared and not any(request.numbers[:size]):
            keys.append((tuple(self._shared), ()))
        return keys
