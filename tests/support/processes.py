"""Find and kill processes in tests: only descendants of this one, even if others end meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.patience import wait_until


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


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Wait for the end of a process with `with`, and kill it first: a stopped one would never end."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def stop_outside_swaps(process: psutil.Process, folder: Path) -> None:
    """Stop a process while it holds no lock of a swap below `folder`, which would block others on this disk."""
    while True:
        process.suspend()
        tasks = list(Path(f"/proc/{process.pid}/task").glob("*/stat"))
        wait_until(lambda tasks=tasks: all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks))
        if not any(_locked(path) for path in folder.rglob(".*.lock")):
            return
        process.resume()


def _locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL, ignoring processes that have already ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
