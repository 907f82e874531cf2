"""Kill the processes that a private Ray leaves behind (HAProxy, builds, workers), however it ended.

Every descendant of a private Ray inherits a mark in its environment (`MARK`). A guard, a process in its own session,
kills those whose parent is gone, and all of them once the command that started it is gone, which it notices by a pipe.
The guard runs this file as a script, without the project: `python -I process_cleanup.py MARK PID`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "POLITE_FLAMINGO_RAY"

_CHECK_SECONDS = 1.0
_PATIENCE = 20.0


def marked(mark: str) -> dict[int, int]:
    """Return the living processes that inherited `MARK=mark`, except this one: id -> parent's id (Linux only)."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for pid in _processes():
        with suppress(OSError):  # it has ended, or belongs to another user
            if pid != os.getpid() and wanted in Path("/proc", str(pid), "environ").read_bytes().split(b"\0"):
                found[pid] = int(_stat(pid)[1])
    return found


def children(of: int) -> list[int]:
    """Return the children of a process, including zombies (Linux only)."""
    found = []
    for pid in _processes():
        with suppress(OSError):
            if int(_stat(pid)[1]) == of:
                found.append(pid)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not (Linux only)."""
    return _state(pid) not in (b"Z", b"X")


def working(pid: int) -> bool:
    """Whether a process uses a core, wants one, or waits for a disk."""
    return _state(pid) in (b"R", b"D")


def end_all(mark: str) -> None:
    """Send SIGKILL until no process is left; one may be about to start another."""
    deadline = time.monotonic() + _PATIENCE
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            _kill(pid)
        time.sleep(0.02)


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """Have a guard watch the processes that carry `mark`, while inside and if this process is killed inside."""
    from ray_jobs.background import repeating  # not there where this file runs as a script

    guards = [_new_guard(mark)]

    def keep() -> None:
        if guards[-1].poll() is not None:  # it was killed
            guards.append(_new_guard(mark))

    try:
        with repeating(keep, 0.1):
            yield
    finally:
        guards[-1].kill()
        for guard in guards:
            guard.communicate()


def _new_guard(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", __file__, mark, str(os.getpid())],
        env={name: value for name, value in os.environ.items() if name != MARK},
        start_new_session=True, cwd="/",
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _guard(mark: str, driver: int) -> None:
    """Watch until standard input ends, which happens when the driver ends."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    lost: set[int] = set()
    while not select.select([0], [], [], _CHECK_SECONDS)[0]:
        found = marked(mark)
        orphans = {pid for pid, parent in found.items() if parent not in found and parent != driver}
        for pid in orphans & lost:  # seen twice, so not a process whose parent was just not listed yet
            _kill(pid)
        lost = orphans
    end_all(mark)


def _processes() -> list[int]:
    names = os.listdir("/proc") if Path("/proc/self").exists() else []  # noqa: PTH208
    return [int(name) for name in names if name.isdigit()]


def _state(pid: int) -> bytes:
    """Return the letter of /proc/PID/stat; "X", as of a dead process, if there is none."""
    try:
        return _stat(pid)[0]
    except OSError:
        return b"X"


def _stat(pid: int) -> list[bytes]:
    """Return state, parent and more from /proc/PID/stat, after the name, which may contain anything."""
    return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _guard(sys.argv[1], int(sys.argv[2]))
