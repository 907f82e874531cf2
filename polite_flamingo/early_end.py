"""What must still be done when a process ends early and unwinds no stack (`ray_jobs/interruption.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_cleanups: list[Callable[[], None]] = []


@contextmanager
def cleaning_up(cleanup: Callable[[], None]) -> Iterator[None]:
    """Have an early end call `cleanup` while inside. It must be quick, and safe whatever the main thread is doing."""
    _cleanups.append(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


def clean_up() -> None:
    """Call the cleanups, the latest first, whatever they raise."""
    for cleanup in reversed(_cleanups):
        with suppress(Exception):
            cleanup()
