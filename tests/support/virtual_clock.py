"""An event loop with a virtual clock: time passes only when all tasks wait, so time limits are tested without waiting.

Whatever a slow or busy machine takes, no virtual time passes for it. Only for coroutines: work in other threads is not
noticed, and time passes without it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Found = TypeVar("Found")


class _Skipping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Advances the clock to the next timer instead of waiting for it."""

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
    """Run a coroutine like `asyncio.run`, on the virtual clock."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
