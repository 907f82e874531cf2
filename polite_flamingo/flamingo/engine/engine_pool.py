"""Several engines over one model, a thread each: how a CPU of several cores is kept busy.

The products of a step of decoding are too small for torch to divide among cores with much gain, and half of a step is
not products at all. So each core runs an engine of its own, with a single thread of torch, on its share of the
requests; torch and the kernels leave Python's lock to the others while they compute. The weights are there once.

On Ray an actor a core does the same, with the weights once an actor. A GPU wants one engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request


class Engines:
    """Takes requests as `Engine.generate` does.

    Attributes:
        engines: each with its own slots and caches.
    """

    def __init__(self, engines: Sequence[Engine]):
        """Args: engines: at least one, on the CPU."""
        self.engines = list(engines)
        self._pool = ThreadPoolExecutor(len(self.engines), "engine", initializer=torch.set_num_threads, initargs=(1,))

    def generate(self, requests: Iterable[Request]) -> None:
        """Do these requests; afterwards each is done. Raises what the first engine to fail raised, after the others."""
        running = [
            self._pool.submit(engine.generate, share)
            for engine, share in zip(self.engines, shares(list(requests), len(self.engines)), strict=True)
        ]
        failures = [failure for one in running if (failure := one.exception()) is not None]
        if failures:
            raise failures[0]


def shares(requests: Sequence[Request], count: int) -> list[list[Request]]:
    """Divide by prompt tokens, the largest groups first; requests of the same images stay together, to share them."""
    groups: dict[tuple[bytes, ...] | int, list[Request]] = {}
    for request in requests:
        groups.setdefault(tuple(request.images) or id(request), []).append(request)
    dealt: list[list[Request]] = [[] for _ in range(count)]
    loads = [0] * count
    for group in sorted(groups.values(), key=lambda group: -_load(group)):
        least = loads.index(min(loads))
        dealt[least] += group
        loads[least] += _load(group)
    return dealt


def _load(group: Sequence[Request]) -> int:
    return sum(len(request.ids) for request in group)
