"""CPU kernels, compiled by Numba: what decoding does between its matrix products, on the calling thread.

A decode step reads every key and value once and computes little with it, so it is bound by memory. Torch needs a dozen
passes through memory, up to the longest row of the batch. Here each row is read to its own end, in one pass over keys
and one over values, and rotary positions and cache writes happen on the way.

Numba compiles a kernel on its first call and caches the result on disk if it can. Sums are float32, in another order
than torch's, so results differ by rounding.

Float arrays are float32, or bfloat16 viewed as uint16, because numpy has no bfloat16 (`array`).

Shapes: B rows, H query heads, K key heads, E width of a head, L positions of the cache, P positions of the model, N
rows of any kind, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

Floats = NDArray[Any]
Integers = NDArray[np.int64]


def array(x: torch.Tensor) -> Floats:
    """View a tensor as a numpy array, bfloat16 as uint16."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _kernel(function: Callable) -> Callable:
    try:
        return njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:  # read-only installation and no home directory: each process compiles again
        return njit(nogil=True, fastmath=True)(function)


def _float(x: Any) -> np.float32:
    """Convert an array element to float32."""
    raise NotImplementedError("compiled code only")


def _like(x: np.float32, like: Floats) -> Any:
    """Convert to the element type of an array; bfloat16 rounds to nearest, ties to even."""
    raise NotImplementedError("compiled code only")


@overload(_float, inline="always")
def _float_of(x: Any) -> Callable:
    def same(x: Any) -> Any:
        return x

    def widened(x: Any) -> Any:
        return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)

    return widened if x == types.uint16 else same


@overload(_like, inline="always")
def _like_of(x: Any, like: Any) -> Callable:
    def same(x: Any, like: Any) -> Any:
        return x

    def rounded(x: Any, like: Any) -> Any:
        bits = np.float32(x).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))

    return rounded if like.dtype == types.uint16 else same


@njit(nogil=True, fastmath=True, inline="always")
def _softmax(scores: Floats, count: int) -> np.float32:
    """Replace scores by e^score up to the returned factor; a series for 2^x, since libm's exp is not vectorised."""
    highest = scores[0]
    for place in range(1, count):
        highest = max(highest, scores[place])
    total = np.float32(0.0)
    for place in range(count):
        power = max((scores[place] - highest) * np.float32(1.4426950408889634), np.float32(-126.0))
        whole = np.floor(power + np.float32(0.5))
        rest = power - whole
        share = np.float32(1.5403530e-4) * rest + np.float32(1.3333558e-3)
        share = share * rest + np.float32(9.6181291e-3)
        share = share * rest + np.float32(5.5504109e-2)
        share = share * rest + np.float32(2.4022651e-1)
        share = share * rest + np.float32(6.9314718e-1)
        share = share * rest + np.float32(1.0)
        share *= np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
        scores[place] = share
        total += share
    return np.float32(1.0) / total


@njit(nogil=True, fastmath=True, inline="always")
def _turn(source: Floats, here: int, cos: Floats, sin: Floats, target: Floats) -> None:
    """Apply LLaMA's rotary positions, by halves; copy if the tables are empty."""
    half = source.shape[0] // 2
    if cos.shape[0] == 0:
        for e in range(source.shape[0]):
            target[e] = _like(_float(source[e]), target)
    else:
        for e in range(half):
            low, high = _float(source[e]), _float(source[e + half])
            target[e] = _like(low * cos[here, e] - high * sin[here, e], target)
            target[e + half] = _like(high * cos[here, e + half] + low * sin[here, e + half], target)


@_kernel
def attend_step(
    qkv: Floats,
    cache: Floats,
    layer: int,
    positions: Integers,
    shared_row: int,
    shared: Integers,
    cos: Floats,
    sin: Floats,
    slopes: Floats,
    scale: float,
    found: Floats,
) -> None:
    """Store the key and value of one token for each of the cache's first B rows, and attend; write to `found`.

    Args:
        qkv: projections (B, H + 2 K, E), queries before keys before values.
        cache: keys and values (2, layers, rows, K, L, E).
        layer: layer of the cache.
        positions: positions of the tokens (B,); each attends to all positions up to its own.
        shared_row: row of the cache whose first positions replace those of other rows, so they stay in the CPU's cache.
        shared: how many positions to read from it, for each row (B,).
        cos: rotary table (P, E) in float32, by halves as in LLaMA; (0, 0) for none.
        sin: likewise.
        slopes: ALiBi slopes (H, 1) in float32; (0, 1) for none.
        scale: scale of the scores.
        found: result (B, H, E).
    """
    width, kv_heads = qkv.shape[2], cache.shape[3]
    heads = qkv.shape[1] - 2 * kv_heads
    query, result = np.empty(width, np.float32), np.empty(width, np.float32)
    scores = np.empty(cache.shape[4], np.float32)
    for row in range(qkv.shape[0]):
        here, begin = positions[row], shared[row]
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            keys, values = cache[0, layer, row, kv_head], cache[1, layer, row, kv_head]
            first_keys, first_values = cache[0, layer, shared_row, kv_head], cache[1, layer, shared_row, kv_head]
            if head % (heads // kv_heads) == 0:
                _turn(qkv[row, heads + kv_head], here, cos, sin, keys[here])
                for e in range(width):
                    values[here, e] = qkv[row, heads + kv_heads + kv_head, e]
            _turn(qkv[row, head], here, cos, sin, query)
            for e in range(width):
                query[e] *= np.float32(scale)
            for place in range(begin):
                score = np.float32(0.0)
                for e in range(width):
                    score += query[e] * _float(first_keys[place, e])
                scores[place] = score
            for place in range(begin, here + 1):
                score = np.float32(0.0)
                for e in range(width):
                    score += query[e] * _float(keys[place, e])
                scores[place] = score
            if slopes.shape[0] > 0:
                for place in range(here + 1):
                    scores[place] += slopes[head, 0] * np.float32(place - here)
            factor = _softmax(scores, here + 1)
            for e in range(width):
                result[e] = np.float32(0.0)
            for place in range(begin):
                for e in range(width):
                    result[e] += scores[place] * _float(first_values[place, e])
            for place in range(begin, here + 1):
                for e in range(width):
                    result[e] += scores[place] * _float(values[place, e])
            for e in range(width):
                found[row, head, e] = _like(result[e] * factor, found)


@_kernel
def store(
    qkv: Floats, cache: Floats, layer: int, rows: Integers, positions: Integers, cos: Floats, sin: Floats, query: Floats
) -> None:
    """Apply rotary positions to chunks of prompts and store their keys and values; write the queries to `query`.

    Args:
        qkv: projections (B, T, H + 2 K, E).
        cache: keys and values (2, layers, rows, K, L, E).
        layer: layer of the cache.
        rows: rows of the cache (B,).
        positions: positions of the tokens (B, T).
        cos: as for `attend_step`.
        sin: likewise.
        query: result (B, H, T, E).
    """
    width, kv_heads = qkv.shape[3], cache.shape[3]
    heads = qkv.shape[2] - 2 * kv_heads
    for number in range(qkv.shape[0]):
        row = rows[number]
        for token in range(qkv.shape[1]):
            here, projected = positions[number, token], qkv[number, token]
            for head in range(heads):
                _turn(projected[head], here, cos, sin, query[number, head, token])
            for head in range(kv_heads):
                _turn(projected[heads + head], here, cos, sin, cache[0, layer, row, head, here])
                for e in range(width):
                    cache[1, layer, row, head, here, e] = projected[heads + kv_heads + head, e]


@_kernel
def rms_norm(x: Floats, weight: Floats, epsilon: float, result: Floats) -> None:
    """Write `x / sqrt(mean(x^2) + epsilon) * weight` of each row of x (N, D), float32, to `result` (N, D)."""
    width = x.shape[1]
    for row in range(x.shape[0]):
        squares = np.float32(0.0)
        for d in range(width):
            squares += x[row, d] * x[row, d]
        factor = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(epsilon))
        for d in range(width):
            result[row, d] = _like(x[row, d] * factor * weight[d], result)
