"""End a job that lost a machine and cannot continue on those that are left; it would wait forever.

Ray restarts the actors of a lost machine wherever there is room. If the rest of the cluster is too small for all of
them, the first may take the room that another pool needs, and nothing moves any more. Only waiting tells that from a
slow model: if a machine was lost, none replaced it and no row was finished for `PATIENCE` seconds, the job ends. The
same command resumes it with pools that fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from polite_flamingo.main_thread import raising_in_main_thread
from polite_flamingo.pools import PoolConfig
from ray_jobs.background import repeating
from ray_jobs.console import JobFailed

PATIENCE = 600.0
"""Seconds: a 9B model takes minutes to load, and a call of many rows takes minutes on a CPU."""
CHECK_SECONDS = 5.0


class Watch:
    """Tells whether a job is stuck.

    Args:
        pools: the job's actor pools.
        rows_done: returns a value that changes with every row and every shard.
        lost: returns the machines that are gone.
        resources: returns the resources of the machines that are left.
        patience: seconds without a finished row.
    """

    def __init__(
        self, pools: Collection[PoolConfig], rows_done: Callable[[], object], lost: Callable[[], Collection[str]],
        resources: Callable[[], Mapping[str, float]], patience: float,
    ):  # fmt: skip
        self._wanted = {
            "CPU": sum(pool.max_actors * pool.cpus for pool in pools),
            "GPU": sum(pool.max_actors * pool.gpus for pool in pools),
        }
        self._rows_done, self._lost, self._resources, self._patience = rows_done, lost, resources, patience
        self._gone = set(lost())
        self._seen: object = None
        self._since = 0.0

    def problem(self, now: float) -> str | None:
        """Return why the job cannot continue; None while it can. Args: now: seconds of a monotonic clock."""
        lost = set(self._lost()) - self._gone
        done = self._rows_done()
        if not lost or done != self._seen:
            self._seen, self._since = done, now
            return None
        left = self._resources()
        if now - self._since < self._patience or all(left.get(kind, 0.0) >= n for kind, n in self._wanted.items()):
            return None
        there = ", ".join(f"{left.get(kind, 0.0):g} {kind}s" for kind in self._wanted)
        return (
            f"{len(lost)} machine{'s' * (len(lost) > 1)} of the cluster went away and no row was finished for "
            f"{self._patience:.0f} s since; what is left ({there}) is less than the pools may take, so their actors "
            "block each other; add machines or lower pools.*.max_actors, and run the same command again to resume"
        )


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Raise `JobFailed` inside this context once `watch` sees a problem; only the main thread is watched."""
    reasons: list[str] = []
    with raising_in_main_thread(JobFailed) as end:

        def check() -> None:
            if not reasons and (reason := watch.problem(time.monotonic())):
                reasons.append(reason)
                end(reason)

        with repeating(check, CHECK_SECONDS):
            yield
