"""A time of one's own: it passes when nobody has anything to do, so time limits are tested without waiting or luck.

What takes any time on a real clock (a slow machine, a busy one) takes none on this one. For coroutines alone: work in
another thread is not seen, and the time goes on without it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Found = TypeVar("Found")


class _Skipping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Instead of waiting for the next timer it goes there."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select()
        found = super().select(0)
        if not found:
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run(main: Coroutine[Any, Any, Found]) -> Found:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
