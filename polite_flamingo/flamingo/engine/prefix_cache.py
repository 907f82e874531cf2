"""The prefix cache: keys and values of prompt prefixes, copied into a request's row instead of computed again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.slots import Slots
from polite_flamingo.lru_cache import LruCache

_Key = tuple[tuple[int, ...], tuple[str, ...]]
"""The prefix's tokens, and the digests of the images among them."""


class PrefixCache:
    """An LRU cache of prompt prefixes: the prefix that all prompts share, and prompts up to their last image."""

    def __init__(self, limit: int, *, shared_prefix_ids: Sequence[int], image_id: int):
        """Create an empty cache.

        Args:
            limit: maximum number of prefixes; 0 turns the cache off.
            shared_prefix_ids: tokens that all prompts start with.
            image_id: token of the image tag.
        """
        self._limit, self._shared_prefix_ids, self._image_id = limit, list(shared_prefix_ids), image_id
        self._cache: LruCache[_Key, Tensor] = LruCache(limit)

    def clear(self) -> None:
        """Evict all prefixes."""
        self._cache.clear()

    def load(self, request: Request, row: int, slots: Slots) -> int:
        """Look up the longest cached prefix of a prompt and copy it into a row; return its length in tokens."""
        assert slots.cache is not None
        for key in self._keys(request):
            if (prefix := self._cache.get(key)) is not None:
                slots.cache.prefix(row, prefix.shape[3]).copy_(prefix)
                return prefix.shape[3]
        return 0

    def store(self, request: Request, row: int, slots: Slots, waiting: Iterable[Request]) -> None:
        """Store the prefixes of a prompt that has run, if waiting requests may need them."""
        cache = slots.cache
        assert cache is not None
        for key in self._keys(request):
            tokens, images = key
            size = len(tokens)
            if not images and cache.rows > slots.count:
                if not slots.has_shared_row:
                    cache.prefix(cache.rows - 1, size).copy_(cache.prefix(row, size))
                    slots.has_shared_row = True
                request.num_shared_tokens = size
            if key not in self._cache and (not images or any(one.digests == images for one in waiting)):
                self._cache.put(key, cache.prefix(row, size).clone())

    def _keys(self, request: Request) -> list[_Key]:
        """Return the prefixes worth keeping, the longest first."""
        keys: list[_Key] = []
        if not self._limit:
            return keys
        if request.images:
            end = len(request.ids) - request.ids[::-1].index(self._image_id)
            if end < len(request.ids):
                keys.append((tuple(request.ids[:end]), request.digests))
        size = len(self._shared_prefix_ids)
        if (
            0 < size < len(request.ids)
            and request.ids[:size] == self._shared_prefix_ids
            and not any(request.image_numbers[:size])
        ):
            keys.append((tuple(self._shared_prefix_ids), ()))
        return keys
