"""What a job does when machines are missing: it says what it waits for, and ends if it cannot continue.

Ray waits without a word for a machine on which an actor fits. If there is none (the last GPU machine was lost, or the
cluster has not started its first one), a line per minute says what is missing.

Ray restarts the actors of a lost machine wherever there is room. If the rest of the cluster is too small for all of
them, the first may take the room that another pool needs, and nothing moves any more. Only waiting tells that from a
slow model: if a machine was lost, none replaced it and no row was finished for `PATIENCE` seconds, the job ends. The
same command resumes it with pools that fit.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from polite_flamingo.main_thread import raising_in_main_thread
from polite_flamingo.pools import PoolConfig
from ray_jobs.background import repeating
from ray_jobs.console import JobFailed
from ray_jobs.progress import EVERY, counted, duration

PATIENCE = 600.0
"""Seconds: a 9B model takes minutes to load, and a call of many rows takes minutes on a CPU."""
CHECK_SECONDS = 5.0

Nodes = Callable[[], Sequence[Mapping[str, Any]]]
"""Returns every machine that the cluster has or had, as `ray.nodes` does."""


@dataclass(frozen=True)
class Status:
    """What there is to say of a job, each a line or None.

    Attributes:
        waiting: which actors have no machine to run on, if that is why no row is finished; at most once a minute.
        problem: why the job cannot continue.
    """

    waiting: str | None = None
    problem: str | None = None


class Watch:
    """Tells what a job waits for, and whether it is stuck.

    Args:
        pools: the job's actor pools.
        rows_done: returns a value that changes with every row and every shard.
        nodes: returns the machines.
        patience: seconds without a finished row until a job that lost a machine ends.
    """

    def __init__(self, pools: Collection[PoolConfig], rows_done: Callable[[], object], nodes: Nodes, patience: float):
        self._pools = pools
        self._wanted = {
            "CPU": sum(pool.max_actors * pool.cpus for pool in pools),
            "GPU": sum(pool.max_actors * pool.gpus for pool in pools),
        }
        self._rows_done, self._nodes, self._patience = rows_done, nodes, patience
        self._gone = {node["NodeID"] for node in nodes() if not node["Alive"]}
        self._seen: object = None
        self._since: float | None = None
        self._said = -math.inf

    def status(self, now: float) -> Status:
        """Return what there is to say. Args: now: seconds of a monotonic clock."""
        done = self._rows_done()
        if done != self._seen or self._since is None:
            self._seen, self._since = done, now
        nodes, idle = self._nodes(), now - self._since
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        lost = sum(not node["Alive"] and node["NodeID"] not in self._gone for node in nodes)
        left = {kind: sum(machine.get(kind, 0.0) for machine in machines) for kind in self._wanted}
        amounts = ", ".join(f"{amount:g} {kind}s" for kind, amount in left.items())
        waiting = problem = None
        if min(idle, now - self._said) >= EVERY and (without := without_room(self._pools, machines)):
            self._said = now
            waiting = (
                f"no row was finished for {duration(idle)}: no machine has room for {_actors(without)}; "
                f"{counted(len(machines), 'machine')} alive with {amounts}" + (f", {lost:,} lost" if lost else "")
            )
        if lost and idle >= self._patience and any(left[kind] < wanted for kind, wanted in self._wanted.items()):
            problem = (
                f"{counted(lost, 'machine')} of the cluster went away and no row was finished for {idle:.0f} s; "
                f"what is left ({amounts}) is less than the pools may take, so their actors block each other; add "
                "machines or lower pools.*.max_actors, and run the same command again to resume"
            )
        return Status(waiting, problem)


def _actors(pools: Mapping[PoolConfig, int]) -> str:
    return " and ".join(
        f"{counted(number, 'actor')} with {pool.cpus:g} CPUs and {pool.gpus:g} GPUs" for pool, number in pools.items()
    )


def without_room(pools: Collection[PoolConfig], machines: Sequence[Mapping[str, float]]) -> Counter[PoolConfig]:
    """Return how many actors of each pool no machine has room for, with every pool at its smallest.

    Args:
        pools: the pools.
        machines: the resources of each machine.
    """
    free = [{kind: machine.get(kind, 0.0) for kind in ("CPU", "GPU")} for machine in machines]
    missing: Counter[PoolConfig] = Counter()
    for pool in sorted(pools, key=lambda pool: (pool.gpus, pool.cpus), reverse=True):
        for _ in range(pool.min_actors):
            taken = {"CPU": pool.cpus, "GPU": pool.gpus}
            room = next((one for one in free if all(one[kind] >= taken[kind] - 1e-6 for kind in taken)), None)
            if room is None:
                missing[pool] += 1
                continue
            for kind, amount in taken.items():
                room[kind] -= amount
    return missing


@contextmanager
def watched(watch: Watch, every: float = 0.0) -> Iterator[None]:
    """Print on standard error what the job waits for; raise `JobFailed` inside once `watch` sees a problem.

    Only the main thread can be interrupted. Args: every: seconds between two looks, if more than `CHECK_SECONDS`.
    """
    reasons: list[str] = []
    with raising_in_main_thread(JobFailed) as end:

        def check() -> None:
            if reasons:
                return
            found = watch.status(time.monotonic())
            if found.waiting:
                tqdm.write(found.waiting, file=sys.stderr)
            if found.problem:
                reasons.append(found.problem)
                end(found.problem)

        with repeating(check, max(every, CHECK_SECONDS)):
            yield
