"""Processes that a private Ray leaves behind, and their end: HAProxy, builds, workers, whoever killed whom.

All that descends from a private Ray inherits a mark in its environment (`MARK`). A guard, a process of its own session,
ends those whose parent is gone, and all of them when the command that started it is gone: it holds the other end of a
pipe. Run as a script, by its path and without the project: `python -I leftovers.py MARK PID`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "POLITE_FLAMINGO_RAY"

_LOOK_SECONDS = 1.0
_PATIENCE = 20.0


def marked(mark: str) -> dict[int, int]:
    """Living processes that inherited `MARK=mark`, but this one, each with its parent (Linux; elsewhere none)."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for name in os.listdir("/proc") if Path("/proc/self").exists() else ():  # noqa: PTH208
        with suppress(OSError, ValueError):  # it has ended meanwhile, or is somebody else's
            if not name.isdigit() or int(name) == os.getpid():
                continue
            if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found[int(name)] = int(_stat(int(name))[1])
    return found


def children(of: int) -> list[int]:
    """Children of a process, zombies too (Linux)."""
    found = []
    for name in os.listdir("/proc") if Path("/proc/self").exists() else ():  # noqa: PTH208
        with suppress(OSError):
            if name.isdigit() and int(_stat(int(name))[1]) == of:
                found.append(int(name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not (Linux)."""
    try:
        return _stat(pid)[0] not in (b"Z", b"X")
    except OSError:
        return False


def working(pid: int) -> bool:
    """Whether a process has a core, wants one, or waits for a disk."""
    try:
        return _stat(pid)[0] in (b"R", b"D")
    except OSError:
        return False


def end_all(mark: str) -> None:
    """SIGKILL, until none is left; a process may be about to start another one."""
    deadline = time.monotonic() + _PATIENCE
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            _kill(pid)
        time.sleep(0.02)


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """While inside, and after this process was killed inside, a guard watches over what carries `mark`."""
    done = threading.Event()
    guards = [_new_guard(mark)]

    def keep() -> None:
        while not done.wait(0.1):
            if guards[-1].poll() is not None:  # somebody has killed it
                guards.append(_new_guard(mark))

    keeper = threading.Thread(target=keep, name="guard", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
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
    """Watch until the standard input ends, as the driver's end does it."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    lost: set[int] = set()
    while not select.select([0], [], [], _LOOK_SECONDS)[0]:
        found = marked(mark)
        orphans = {pid for pid, parent in found.items() if parent not in found and parent != driver}
        for pid in orphans & lost:  # seen twice: not one whose parent is just being noted
            _kill(pid)
        lost = orphans
    end_all(mark)


def _stat(pid: int) -> list[bytes]:
    """State, parent and more; the name before them may hold anything."""
    return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _guard(sys.argv[1], int(sys.argv[2]))
