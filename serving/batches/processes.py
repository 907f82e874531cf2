"""Find, stop and kill the processes of builds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from pathlib import Path

GRACE_SECONDS = 15.0
"""Seconds for a build to end after SIGTERM; then it is killed."""

log = logging.getLogger(__name__)


def builds_of(out: Path) -> list[int]:
    """Return the process ids of all builds into a folder, found by their command lines (Linux only).

    Args:
        out: a job's folder, whose path holds the job's random id.
    """
    argument = os.fsencode(f"--out={out}")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if argument in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def end_orphans(out: Path) -> None:
    """Kill the build that a killed runner has left behind, if it still runs, and its children."""
    for pid in builds_of(out):
        log.warning("killing build %d, left behind by a killed runner", pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(pid), signal.SIGKILL)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a build and its children: SIGTERM first, SIGKILL after `GRACE_SECONDS`."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
