"""Periodic checks in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(check: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `check` every `seconds` seconds while inside; the first call comes after one interval."""
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
