"""Start and end the process of a build. It ends with its runner, however that ends.

    python -m serving.batches.processes COMMAND…    runs COMMAND; ends it when standard input ends

The runner holds the other end of that pipe, which the kernel closes when the runner dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

GRACE_SECONDS = 15.0
"""Seconds for a build to end after SIGTERM; then it is killed."""


def start(command: Sequence[str], output: BinaryIO, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a build in a process group of its own; its exit status is that of the returned process."""
    return subprocess.Popen(  # polled: asyncio's subprocesses need a loop on the main thread
        [sys.executable, "-m", __name__, *command], stdin=subprocess.PIPE, stdout=output, stderr=output,
        env=environment, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a build and its children: SIGTERM first, SIGKILL after `GRACE_SECONDS`."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _end_with_input(build: subprocess.Popen[bytes]) -> None:
    """Wait until nobody holds the other end of standard input, then end the whole group."""
    while os.read(0, 1):  # not sys.stdin: an exit of Python needs its lock
        pass
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        build.wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command line's command; return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the group's signals are for the build, whose end this awaits
    build = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_input, args=(build,), daemon=True).start()
    return build.wait()


if __name__ == "__main__":
    sys.exit(main())
