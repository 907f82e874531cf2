"""The cache behind images, prompt prefixes, training features and recorded CUDA graphs."""

from __future__ import annotations

from polite_flamingo.lru_cache import LruCache


def test_the_least_recently_used_values_are_evicted_until_the_rest_fits() -> None:
    cache: LruCache[str, bytes] = LruCache(10, len)
    for name in "abc":
        cache.put(name, b"123")
    assert cache.get("a") == b"123" and cache.size == 9
    cache.put("d", b"1234")
    assert [name for name in "abcd" if name in cache] == ["a", "c", "d"] and cache.size == 10
    cache.put("a", b"")
    assert cache.size == 7 and cache.get("b") is None
    cache.put("too large", b"x" * 11)
    assert len(cache) == cache.size == 0, "a value that never fits is not kept"


def test_without_sizes_the_number_of_values_is_bounded() -> None:
    cache: LruCache[int, str] = LruCache(2)
    for number in range(4):
        cache.put(number, "value")
    assert 1 not in cache and 2 in cache and 3 in cache
    cache.clear()
    assert len(cache) == cache.size == 0
