"""How a command ends before its time: one line, the exit status of the cause, and nothing of it left running.

Ctrl-C, SIGTERM and SIGHUP are blocked in every thread, from the first import on, and one thread waits for them. So no
library's own handler is ever called (Ray's C++ core prints a dump at SIGTERM), no KeyboardInterrupt breaks into an
import or into Ray's shutdown, and a second signal changes nothing. The output folder needs no goodbye: what is
committed is committed, as after SIGKILL. A service ends in good order instead, with status 0 (`ask`).

Exit statuses: 0 done, 1 the work failed, 2 the command or its surroundings are wrong, 128 + number for a signal
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

received: signal.Signals | None = None
"""The signal that has asked this command to end; None where none has."""

_name = ""
_screen = 2
_ending = threading.Lock()
_ended, _pointing = threading.Event(), threading.Lock()
_cleanups: list[Callable[[], None]] = []
_ask: tuple[Callable[[], None], float] | None = None


def listen(command: Sequence[str]) -> None:
    """Take over the signals of this process, once, while it has one thread. Args: command: such as `sys.orig_argv`."""
    global _name, _screen
    if _name:
        return
    names = [after for before, after in itertools.pairwise(command) if re.search(r"(^-m|/polite-flamingo)$", before)]
    _name = (names or ["job"])[0].rpartition(".")[2].removesuffix("_pf1m")
    _screen = os.dup(2)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nothing printed is lost at the end
    wanted = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]  # nohup, or `&` in a script
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted))
    atexit.register(_wait_for_the_end)
    threading.Thread(target=_listen, args=(wanted,), name="signals", daemon=True).start()


def listening() -> bool:
    """Whether this process is a command of its own, which may be ended here."""
    return bool(_name)


def end(message: str, status: int) -> None:
    """Say one line, end what `cleaning_up` was told of, and this process, from whichever thread. Does not return."""
    _ending.acquire()  # for ever: nobody else may end, and the main thread waits at its exit
    with suppress(OSError), _pointing:
        _ended.set()
        error = "error: " if status < 128 else ""
        os.write(_screen, f"{_lead()}{_name}: {error}{' '.join(message.split())}\n".encode())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # what threads and libraries say from here on is of no use to anybody
        if "rich" in sys.modules and os.isatty(1):
            os.write(1, b"\x1b[?25h")  # the cursor, which a bar of rich hides
    for cleanup in reversed(_cleanups):
        with suppress(Exception):
            cleanup()
    os._exit(status)


def point_stderr(descriptor: int) -> None:
    """Have the standard error output go to `descriptor`, unless this process is being ended."""
    with _pointing:
        if not _ended.is_set():
            os.dup2(descriptor, 2)


@contextmanager
def cleaning_up(cleanup: Callable[[], None]) -> Iterator[None]:
    """While inside, an early end calls `cleanup` too: quick, and safe beside whatever the main thread does."""
    _cleanups.append(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


def ask(how: Callable[[], None], seconds: float) -> None:
    """From now on the first signal calls `how` and leaves `seconds` for an orderly end; a second one ends at once."""
    global _ask
    _ask = how, seconds


def _listen(wanted: Sequence[signal.Signals]) -> None:
    global received
    while True:
        number = signal.Signals(signal.sigwait(wanted))
        if received is None and _ask is not None:
            received = number
            how, seconds = _ask
            late = threading.Timer(seconds, end, ("ended before all answers were finished", 128 + number))
            late.daemon = True
            late.start()
            how()
            continue
        received = received or number
        end("interrupted; the same command goes on where it stopped", 128 + number)


def _lead() -> str:
    """Past a bar, or the ^C that a terminal shows."""
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    return "\n" if os.isatty(_screen) or len(bars) else ""


def _wait_for_the_end() -> None:
    """At exit, after everybody else: where the process is being ended, its status is not the main thread's to give."""
    _ending.acquire()
