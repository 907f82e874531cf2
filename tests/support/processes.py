"""Processes that tests kill: only such as descend from this one, and none is missed because another has just ended."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psutil


def descendants(named: str) -> list[psutil.Process]:
    """Those whose command line holds `named`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if any(named in part for part in process.cmdline()):
                found.append(process)
    return found


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it, itself the first."""
    oldest = psutil.Process(pid)
    return [oldest, *oldest.children(recursive=True)]


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, also where some have ended already, as children do when their parents have."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
