"""A pool of engines over one model, one thread each, to keep a CPU with several cores busy.

The matrix products of a decode step are too small for torch to split well across cores, and half of a step is not
matrix products at all. So each core runs its own engine with one torch thread on its share of the requests. Torch and
the kernels release the GIL while they compute. The weights are loaded once.

On Ray, an actor per core does the same, with one copy of the weights per actor. A GPU needs only one engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request, by_images


class EnginePool:
    """Several engines with the same `generate` as one `Engine`.

    Attributes:
        engines: the engines, each with its own slots and caches.
    """

    def __init__(self, engines: Sequence[Engine]):
        """Args: engines: at least one, on the CPU."""
        self.engines = list(engines)
        self._pool = ThreadPoolExecutor(len(self.engines), "engine", initializer=torch.set_num_threads, initargs=(1,))

    def generate(self, requests: Iterable[Request]) -> None:
        """Run these requests until each is done. If engines fail, raise the first one's error after all have ended."""
        running = [
            self._pool.submit(engine.generate, share)
            for engine, share in zip(self.engines, shares(list(requests), len(self.engines)), strict=True)
        ]
        failures = [failure for one in running if (failure := one.exception()) is not None]
        if failures:
            raise failures[0]


def shares(requests: Sequence[Request], count: int) -> list[list[Request]]:
    """Split requests into shares of about equally many prompt tokens; those with the same images stay together."""
    split: list[list[Request]] = [[] for _ in range(count)]
    loads = [0] * count
    for group in sorted(by_images(requests), key=lambda group: -_load(group)):
        lightest = loads.index(min(loads))
        split[lightest] += group
        loads[lightest] += _load(group)
    return split


def _load(group: Sequence[Request]) -> int:
    return sum(len(request.ids) for request in group)
