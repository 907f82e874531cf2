"""Raise an error in the main thread from another one, for a watch that finds that the work must stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_pending: list[Exception] = []


@contextmanager
def raising_in_main_thread(error: type[Exception]) -> Iterator[Callable[[str], None]]:
    """Yield a function for other threads: it raises `error(reason)` in this block, even where that waits.

    Only the main thread can be interrupted; in any other, the function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda reason: None
        return

    def end(reason: str) -> None:
        _pending.append(error(reason))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)  # wakes it where it waits

    before = signal.signal(signal.SIGUSR1, _raise)
    try:
        yield end
    finally:
        signal.signal(signal.SIGUSR1, before)


def _raise(number: int, frame: object) -> None:
    if _pending:
        raise _pending.pop(0)
