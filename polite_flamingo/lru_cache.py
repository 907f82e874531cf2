"""A cache of bounded size that evicts the least recently used values first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Least-recently-used cache, bounded by the summed size of its values. Not thread-safe.

    Attributes:
        size: of all cached values, in the unit of `size_of`.
    """

    def __init__(self, max_size: int, size_of: Callable[[Value], int] = lambda value: 1):
        """Create an empty cache.

        Args:
            max_size: upper bound of `size`. A value that is larger by itself is not kept.
            size_of: size of a value, such as its bytes. By default each value counts as 1.
        """
        self._max_size, self._size_of = max_size, size_of
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self.size = 0

    def __contains__(self, key: Key) -> bool:
        """Whether a value is cached; this does not count as a use."""
        return key in self._values

    def __len__(self) -> int:
        """Count the cached values."""
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """Return a cached value and mark it as just used; None if there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        """Add or replace a value, then evict until the cache fits its bound again."""
        if key in self._values:
            self.size -= self._size_of(self._values.pop(key))
        self._values[key] = value
        self.size += self._size_of(value)
        while self.size > self._max_size:
            self.size -= self._size_of(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Evict everything."""
        self._values.clear()
        self.size = 0
