"""Find and kill processes in tests: only descendants of this one, even if others end meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psutil


def descendants(named: str) -> list[psutil.Process]:
    """Return the descendants whose command line contains `named`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if any(named in part for part in process.cmdline()):
                found.append(process)
    return found


def builds_into(out: str) -> list[psutil.Process]:
    """Return the processes of builds with this `--out`, started by whichever process."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if f"--out={out}" in line and "serving.batches.processes" not in line and is_alive(process):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, itself first."""
    oldest = psutil.Process(pid)
    return [oldest, *oldest.children(recursive=True)]


def kill(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL, ignoring processes that have already ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
