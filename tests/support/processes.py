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


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, itself first."""
    oldest = psutil.Process(pid)
    return [oldest, *oldest.children(recursive=True)]


def kill(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL, ignoring processes that have already ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
