"""CPU time and memory of a job or a service on Ray, by kind of process, measured from outside while it runs."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_KINDS = (
    (r"ray::ServeReplica:[^:]*:(\w+)", r"\1"),
    (r"ray::ProxyActor|haproxy", "proxy"),
    (r"ray::ServeController", "Serve's controller"),
    (r"ray::(Dashboard|RuntimeEnv)Agent", "node agents"),
    (r"ray::MapWorker\(MapBatches\((\w+)\)\)", r"\1"),
    (r"ray::_?(Stats|Autoscal|Datasets)\w*", "Ray Data's own actors"),
    (r"ray::", "tasks (read, commit) and idle workers"),
    (r"/raylet/raylet", "raylet with its object store"),
    (r"gcs_server", "GCS"),
    (r"dashboard/agent|runtime_env/agent|runtime_env_agent", "node agents"),
    (r"dashboard", "dashboard"),
    (r"log_monitor", "log monitor"),
    (r"monitor\.py", "autoscaler's monitor"),
)
"""Pattern of a command line -> kind of process."""


class CpuByKind:
    """Samples the CPU seconds of this process and its descendants once per second, by kind.

    What a process used between the last sample and its end is lost.
    """

    def __init__(self, begun: Callable[[], bool] = lambda: True):
        """Args: begun: CPU time before this returns True does not count."""
        self._own = psutil.Process()
        self._begun = begun
        self._used: dict[tuple[int, float], float] = {}
        self._spent: Counter[str] = Counter()
        self._stop = threading.Event()
        self._look(counted=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Return seconds by kind, largest first."""
        self._stop.set()
        self._thread.join()
        self._look()
        return dict(self._spent.most_common())

    def _watch(self) -> None:
        while not self._begun() and not self._stop.wait(0.1):
            pass
        self._look(counted=False)
        while not self._stop.wait(1.0):
            self._look()

    def _look(self, counted: bool = True) -> None:
        for member in [self._own, *self._own.children(recursive=True)]:
            try:
                times = member.cpu_times()
                name = member.pid, member.create_time()
                kind = "driver" if member == self._own else kind_of(" ".join(member.cmdline()))
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            used = times.user + times.system
            if counted:
                self._spent[kind] += used - self._used.get(name, 0.0)
            self._used[name] = used


def cpu_of(root: int) -> Counter[str]:
    """Return CPU seconds of a process and its descendants so far, by kind; ended ones are not counted."""
    spent: Counter[str] = Counter()
    for member, kind in _tree(root):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = member.cpu_times()
            spent[kind] += times.user + times.system
    return spent


def memory_of(root: int) -> Counter[str]:
    """Return the anonymous memory of a process and its descendants in bytes, by kind.

    Shared pages of libraries are left out: they would change with the other processes that share them.
    """
    held: Counter[str] = Counter()
    for member, kind in _tree(root):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
            rollup = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
            held[kind] += sum(1024 * int(found) for found in re.findall(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE))
    return held


def pids_of(root: int, kind: str) -> list[int]:
    """Return the ids of the processes of a kind below `root`."""
    return [member.pid for member, found in _tree(root) if found == kind]


def pin(root: int, choose: Callable[[str], set[int]]) -> None:
    """Keep every thread of a process and its descendants on the cores that `choose` names for its kind."""
    for member, kind in _tree(root):
        for thread in Path(f"/proc/{member.pid}/task").glob("*"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), choose(kind))


def _tree(root: int) -> Iterator[tuple[psutil.Process, str]]:
    top = psutil.Process(root)
    for member in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            yield member, "command" if member == top else kind_of(" ".join(member.cmdline()))


def kind_of(command: str) -> str:
    """Return the kind of a process, by its command line."""
    for pattern, kind in _KINDS:
        if match := re.search(pattern, command):
            return match.expand(kind)
    return Path(command.split(" ", 1)[0]).name or "?"
