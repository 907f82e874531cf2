"""End a command early: one line, the exit status of the cause, and no process left running.

Ctrl-C, SIGTERM and SIGHUP are blocked in every thread from the first import on, and one thread waits for them. So no
library's own handler runs (Ray's C++ core prints a dump at SIGTERM), no KeyboardInterrupt breaks into an import or into
Ray's shutdown, and a second signal changes nothing. The output folder needs no shutdown: what is committed is
committed, as after SIGKILL. A service shuts down gracefully instead, with status 0 (`on_signal`).

Exit statuses: 0 done, 1 the work failed, 2 the command or its environment is wrong, 128 + number for a signal
(129 SIGHUP, 130 Ctrl-C, 143 SIGTERM).
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from polite_flamingo.early_end import clean_up

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

received: signal.Signals | None = None
"""The signal that asked this command to end; None if there was none."""

_name = ""
_screen = 2
_ending = threading.Lock()
_ended, _pointing = threading.Event(), threading.Lock()
_shutdown: tuple[Callable[[], None], float] | None = None


def listen(command: Sequence[str]) -> None:
    """Handle the signals of this process from now on. Call it while there is one thread, with `sys.orig_argv`."""
    global _name, _screen
    if _name:
        return
    names = [after for before, after in itertools.pairwise(command) if re.search(r"(^-m|/polite-flamingo)$", before)]
    _name = (names or ["job"])[0].rpartition(".")[2].removesuffix("_pf1m")
    _screen = os.dup(2)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that nothing printed is lost
    wanted = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]  # nohup, or `&` in a script
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted))
    atexit.register(_ending.acquire)  # if `end` is at work, wait for it, so that the process exits with its status
    threading.Thread(target=_listen, args=(wanted,), name="signals", daemon=True).start()


def listening() -> bool:
    """Whether this process is a command, which may be ended here."""
    return bool(_name)


def end(message: str, status: int) -> None:
    """Print one line, run the cleanups, and end this process, from any thread. Does not return."""
    _ending.acquire()  # never released: nobody else may end, and the main thread waits at its exit
    with suppress(OSError), _pointing:
        _ended.set()
        error = "error: " if status < 128 else ""
        lead = "\n" if os.isatty(_screen) else ""  # the cursor may be behind a progress bar or a ^C
        os.write(_screen, f"{lead}{_name}: {error}{' '.join(message.split())}\n".encode())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # what threads and libraries print from here on is noise
    clean_up()
    os._exit(status)


def point_stderr(descriptor: int) -> None:
    """Redirect standard error to `descriptor`, unless this process is being ended."""
    with _pointing:
        if not _ended.is_set():
            os.dup2(descriptor, 2)


def on_signal(stop: Callable[[], None], seconds: float) -> None:
    """Have the first signal call `stop` and allow `seconds` for a graceful shutdown; a second one ends at once."""
    global _shutdown
    _shutdown = stop, seconds


def _listen(wanted: Sequence[signal.Signals]) -> None:
    global received
    while True:
        number = signal.Signals(signal.sigwait(wanted))
        if received is None and _shutdown is not None:
            received = number
            stop, seconds = _shutdown
            late = threading.Timer(seconds, end, ("ended before all answers were finished", 128 + number))
            late.daemon = True
            late.start()
            stop()
            continue
        received = received or number
        end("interrupted; run the same command again to resume", 128 + number)
