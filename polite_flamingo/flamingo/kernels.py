"""What decoding on a CPU does between its matrix products, compiled: float32 only, on the thread that calls.

A step of decoding reads every key and value once and computes little with it, so memory is what it waits for. Torch
takes a dozen calls for it, each through memory, up to the longest row of the batch; here a row is read to its own end,
in one pass for keys and one for values, and what comes before (rotary positions, writing the cache) happens on the way.

Numba compiles a kernel when it is first called, and keeps the result on disk where it may. Sums are taken in another
order than torch's, so results differ from its by rounding.

Shapes: B rows, H heads of queries, K of keys, E width of a head, L positions of the cache, P positions of the model, N
rows of any kind, D width of the model.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

NONE: Floats = np.empty((0, 0), dtype=np.float32)
"""In the place of tables that a model lacks."""


@njit(cache=True, nogil=True, fastmath=True)
def attend_step(
    qkv: Floats,
    cache: Floats,
    layer: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    cos: Floats,
    sin: Floats,
    slopes: Floats,
    scale: float,
    found: Floats,
) -> None:
    """One token a row: turn its query and key, store its key and value, attend; the result goes to `found`.

    Args:
        qkv: projections (B, H + 2 K, E), queries before keys before values.
        cache: keys and values (2, layers, rows, K, L, E).
        layer: of the cache.
        rows: of the cache (B,).
        positions: of the tokens (B,); all up to its own are looked at.
        cos: rotary tables (P, E), of the halves as in LLaMA; `NONE` for none.
        sin: likewise.
        slopes: ALiBi's (H, 1); `NONE` for none.
        scale: of the scores.
        found: (B, H, E).
    """
    width = qkv.shape[2]
    kv_heads = cache.shape[3]
    heads = qkv.shape[1] - 2 * kv_heads
    half = width // 2
    query = np.empty(width, np.float32)
    scores = np.empty(cache.shape[4], np.float32)
    for number in range(qkv.shape[0]):
        row, here = rows[number], positions[number]
        for kv_head in range(kv_heads):
            keys, values = cache[0, layer, row, kv_head], cache[1, layer, row, kv_head]
            source = qkv[number, heads + kv_head]
            if cos.shape[0] > 0:
                for e in range(half):
                    keys[here, e] = source[e] * cos[here, e] - source[e + half] * sin[here, e]
                    keys[here, e + half] = source[e + half] * cos[here, e + half] + source[e] * sin[here, e + half]
            else:
                for e in range(width):
                    keys[here, e] = source[e]
            source = qkv[number, heads + kv_heads + kv_head]
            for e in range(width):
                values[here, e] = source[e]
            for head in range(kv_head * (heads // kv_heads), (kv_head + 1) * (heads // kv_heads)):
                source = qkv[number, head]
                if cos.shape[0] > 0:
                    for e in range(half):
                        query[e] = source[e] * cos[here, e] - source[e + half] * sin[here, e]
                        query[e + half] = source[e + half] * cos[here, e + half] + source[e] * sin[here, e + half]
                else:
                    for e in range(width):
                        query[e] = source[e]
                for place in range(here + 1):
                    score = np.float32(0.0)
                    for e in range(width):
                        score += query[e] * keys[place, e]
                    scores[place] = score * scale
                if slopes.shape[0] > 0:
                    slope = slopes[head, 0]
                    for place in range(here + 1):
                        scores[place] += slope * np.float32(place - here)
                highest = scores[0]
                for place in range(1, here + 1):
                    highest = max(highest, scores[place])
                total = np.float32(0.0)
                for place in range(here + 1):
                    share = math.exp(scores[place] - highest)
                    scores[place] = share
                    total += share
                result = found[number, head]
                for e in range(width):
                    result[e] = np.float32(0.0)
                for place in range(here + 1):
                    share = scores[place] / total
                    for e in range(width):
                        result[e] += share * values[place, e]


@njit(cache=True, nogil=True, fastmath=True)
def store(
    qkv: Floats,
    cache: Floats,
    layer: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    cos: Floats,
    sin: Floats,
    queries: Floats,
) -> None:
    """Chunks of prompts: turn queries and keys, store keys and values; the queries go to `queries`.

    Args:
        qkv: projections (B, T, H + 2 K, E).
        cache: keys and values (2, layers, rows, K, L, E).
        layer: of the cache.
        rows: of the cache (B,).
        positions: of the tokens (B, T).
        cos: as for `attend_step`.
        sin: likewise.
        queries: (B, H, T, E).
    """
    count, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[3]
    kv_heads = cache.shape[3]
    heads = qkv.shape[2] - 2 * kv_heads
    half = width // 2
    turned = cos.shape[0] > 0
    for number in range(count):
        row = rows[number]
        for token in range(length):
            here = positions[number, token]
            for head in range(heads + kv_heads):
                source = qkv[number, token, head]
                if head < heads:
                    target = queries[number, head, token]
                else:
                    target = cache[0, layer, row, head - heads, here]
                if turned:
                    for e in range(half):
                        target[e] = source[e] * cos[here, e] - source[e + half] * sin[here, e]
                        target[e + half] = source[e + half] * cos[here, e + half] + source[e] * sin[here, e + half]
                else:
                    for e in range(width):
                        target[e] = source[e]
            for head in range(kv_heads):
                source, target = qkv[number, token, heads + kv_heads + head], cache[1, layer, row, head, here]
                for e in range(width):
                    target[e] = source[e]


@njit(cache=True, nogil=True, fastmath=True)
def rms_norm(x: Floats, weight: Floats, epsilon: float, result: Floats) -> None:
    """`x / sqrt(mean(x^2) + epsilon) * weight` of each row of x (N, D), into `result` (N, D)."""
    width = x.shape[1]
    for row in range(x.shape[0]):
        squares = np.float32(0.0)
        for d in range(width):
            squares += x[row, d] * x[row, d]
        factor = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(epsilon))
        for d in range(width):
            result[row, d] = x[row, d] * factor * weight[d]
