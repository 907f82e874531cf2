"""Writers of shards, each in its own process, which stop or die between any two steps of a commit.

A process is forked from one that has everything imported, so dozens cost a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any, BinaryIO

import psutil

from polite_flamingo.sample import Quarantined, Sample, Turn
from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.disk import Disk
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import location

_STATUS = threading.Lock()
"""A start reads the status of every process that has ended; of two threads that read one, one gets nonsense."""

LOST = 3
"""Exit status of a writer that was told that it lost its lease."""


def rows_of(name: str) -> list[Sample | Quarantined]:
    """Return the rows of a shard: three good ones and one that failed."""
    good = [
        Sample(
            key=f"{name}/{number}",
            dataset="made",
            task="text",
            turns=(Turn(instruction=f"What is {number}?", response=f"{number} of {name}"),),
            images=(),
        )
        for number in range(3)
    ]
    return [*good, Quarantined(key=f"{name}/3", shard=name, index=3, reason="rewriting_failed", detail="made to fail")]


def commit(layout: OutputLayout, name: str) -> Manifest:
    """Commit a shard with the rows that belong to it."""

    def manifest(scored: int, quarantined: int) -> Manifest:
        return Manifest(shard=name, rows_in=4, scored=scored, quarantined=quarantined, config_hash="made")

    return commit_shard(layout, name, rows_of(name), manifest)


@contextmanager
def writers() -> Iterator[Callable[..., ForkServerProcess]]:
    """Yield `start_writer`; afterwards, kill those that still live, stopped or not."""
    started: list[ForkServerProcess] = []

    def start(*args: Any, **options: Any) -> ForkServerProcess:
        started.append(start_writer(*args, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.join()


def start_writer(
    out: str,
    names: Sequence[str],
    environment: Mapping[str, str],
    *,
    signals: Mapping[int, int] | None = None,
    threads: int = 1,
    lease_seconds: float | None = None,
) -> ForkServerProcess:
    """Start a process that commits shards.

    Args:
        out: the output folder.
        names: of the shards.
        environment: leads to the store.
        signals: what the process sends itself at which step, counted from 0; see `_step_by_step`.
        threads: shards at a time.
        lease_seconds: if given, it holds the output with a lease of this length, and goes on when it has lost it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(
        target=_write, args=(out, names, dict(environment), dict(signals or {}), threads, lease_seconds), daemon=True
    )
    with _STATUS:
        process.start()
    return process


def exit_status(process: ForkServerProcess) -> int:
    """Wait for a process to end; return its exit status, or minus the signal that killed it."""
    wait([process.sentinel])
    with _STATUS:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def is_stopped(process: ForkServerProcess) -> bool:
    """Whether a process has been stopped. Fails if it has ended."""
    assert process.is_alive(), process.exitcode
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def count_steps(work: Callable[[], object], signals: Mapping[int, int] | None = None) -> int:
    """Return the number of steps that some work takes."""
    with _step_by_step(signals or {}) as taken:
        work()
    return taken[0]


def _write(
    out: str,
    names: Sequence[str],
    environment: Mapping[str, str],
    signals: Mapping[int, int],
    threads: int,
    lease_seconds: float | None,
) -> None:
    os.environ.update(environment)
    told: list[str] = []
    layout = OutputLayout(root=location(out))
    held = nullcontext() if lease_seconds is None else exclusive(layout.root, told.append, lease_seconds)
    with held, _step_by_step(signals), ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda name: commit(layout, name), names))
        while lease_seconds is not None and signals and not told:
            pass  # a writer that slept past its lease must be told
    os._exit(LOST if told else 0)


@contextmanager
def _step_by_step(signals: Mapping[int, int]) -> Iterator[list[int]]:
    """Count the steps of this process's stores, and send it the signal that is planned for a step.

    There is a step before and after each request, and one between the bytes of a writer and their publication. The
    requests for a lease do not count.
    """
    lock, taken, originals = threading.Lock(), [0], []

    def step(key: object) -> None:
        if str(key).endswith("lock.json"):
            return
        with lock:
            planned = signals.get(taken[0])
            taken[0] += 1
            if planned:
                signal.pthread_kill(threading.get_ident(), planned)  # here and now; os.kill may take another thread

    def stepping(method: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(store: object, key: object, *args: Any, **options: Any) -> Any:
            step(key)
            done = method(store, key, *args, **options)
            step(key)
            return done

        return stepped

    def stepping_writer(method: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def stepped(store: object, key: object, **options: Any) -> Iterator[BinaryIO]:
            step(key)
            with method(store, key, **options) as file:
                yield file
                step(key)
            step(key)

        return stepped

    for store in (Bucket, Disk):
        for name in ("get", "create", "swap", "delete", "writer"):
            method = getattr(store, name)
            originals.append((store, name, method))
            setattr(store, name, stepping_writer(method) if name == "writer" else stepping(method))
    try:
        yield taken
    finally:
        for store, name, method in originals:
            setattr(store, name, method)


STOP, KILL, WAKE = signal.SIGSTOP, signal.SIGKILL, signal.SIGCONT
