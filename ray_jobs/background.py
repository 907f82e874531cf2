"""Checks that run beside a job, in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(check: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `check` every so many seconds while inside; the first call comes after as many."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            check()

    thread = threading.Thread(target=repeat, name=check.__qualname__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
