"""Memory and CPU time of this process and its descendants, sampled in a thread while it works."""

from __future__ import annotations

import threading

import psutil


class ResourceMonitor:
    """Samples the memory of this process and its descendants, and adds up their CPU time."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._start = self._peak = self._own.memory_info().rss
        self._all = 0
        self._cpu: dict[tuple[int, float], float] = {}
        self._before = self._times()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _times(self) -> float:
        for member in [self._own, *self._own.children(recursive=True)]:
            try:
                used = member.cpu_times()
                self._cpu[member.pid, member.create_time()] = used.user + used.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._cpu.values())

    def _sample(self) -> None:
        ticks = 0
        while not self._done.wait(0.5):
            self._peak = max(self._peak, self._own.memory_info().rss)
            ticks += 1
            if ticks % 20 == 0:  # inspecting a hundred processes costs CPU, which is being measured
                self._times()
                self._all = max(self._all, uss([self._own, *self._own.children(recursive=True)]))

    def stop(self) -> dict[str, float]:
        """Stop sampling; return memory in bytes and CPU time in seconds."""
        self._done.set()
        self._thread.join()
        return {
            "driver_start": self._start,
            "driver_peak": self._peak,
            "all_peak": max(self._all, uss([self._own, *self._own.children(recursive=True)])),
            "cpu": self._times() - self._before,
        }


def uss(processes: list[psutil.Process]) -> int:
    """Return the USS of processes, in bytes."""
    total = 0
    for member in processes:
        try:
            total += member.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
