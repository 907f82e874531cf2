"""The machine's roofline, measured: peak arithmetic and memory bandwidth, the scale for the engine's utilisation.

Each is the best of several runs of the most favourable work: products of large square matrices, and reading an array
that fits in no cache. A model reaches neither, because its products are smaller and its memory is read in pieces.
Nothing comes from a data sheet. It measures one device only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

_TRIES_SECONDS = 0.4
"""Time spent on each kind of work."""


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a device.

    Attributes:
        flops: floating-point operations per second in matrix products; a multiplication and its addition are two.
        bytes_per_second: bytes read from memory per second.
    """

    flops: float
    bytes_per_second: float


def measure(device: torch.device | str, dtype: torch.dtype) -> Ceilings:
    """Measure with torch's current number of threads; takes under two seconds and 512 MB of memory (CUDA: 4 GB).

    Args:
        device: "cpu" or a CUDA device.
        dtype: dtype of the matrices. The speed of float32 on CUDA depends on whether torch allows TF32.
    """
    device = torch.device(device)
    return Ceilings(_flops(device, dtype), _bytes_per_second(device))


def _flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate over square products, each with eight times the work of the previous size."""
    best = 0.0
    deadline = time.perf_counter() + _TRIES_SECONDS
    for size in (1024, 2048, 4096, 8192) if device.type == "cuda" else (256, 512, 1024, 2048):
        work = 2 * size**3
        # A CPU without instructions for this dtype may need seconds for the larger sizes.
        if best and time.perf_counter() + work / best > deadline:
            break
        # random numbers, since a GPU multiplies zeros faster than weights
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        best = max(best, work / _quickest(partial(torch.mm, left, right, out=torch.empty_like(left)), device))
    return best


def _bytes_per_second(device: torch.device) -> float:
    """Return the best rate of two reductions over an array larger than any cache."""
    # ones, since memory that was never written is one page of zeros, which fits in the cache
    array = torch.ones((4 << 30 if device.type == "cuda" else 512 << 20) // 4, device=device)
    seconds = min(_quickest(array.sum, device), _quickest(array.amax, device))
    return array.numel() * array.element_size() / seconds


def _quickest(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, the best of at least two runs that are long enough to time."""
    _timed(work, 1, device)  # the first call includes setup
    calls = max(1, int(0.01 / _timed(work, 1, device)))
    end = time.perf_counter() + _TRIES_SECONDS / 4
    best = min(_timed(work, calls, device) for _ in range(2))
    while time.perf_counter() < end:
        best = min(best, _timed(work, calls, device))
    return best


def _timed(work: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / calls
