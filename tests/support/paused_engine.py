"""Pause an engine in the middle of its answers, so that tests of disconnects do not depend on timing."""

from __future__ import annotations

import threading
import time

from polite_flamingo.flamingo.engine.async_engine import AsyncEngine
from polite_flamingo.flamingo.engine.requests import Request


def hold(service: AsyncEngine, free: threading.Event) -> None:
    """Pause the engine while `free` is not set and an open answer has words.

    It still admits and cancels requests between steps. Otherwise a tiny engine finishes an answer before anybody has
    read its beginning.
    """
    engine = service._engine
    step, open_texts = engine.step, set[Request]()

    def held() -> list[Request]:
        open_texts.difference_update([request for request in open_texts if request.done])
        if not free.is_set() and any(request.text.strip() for request in open_texts):
            time.sleep(0.002)  # the engine's own thread, which would otherwise take the core from those who read
            return []
        touched = step()
        open_texts.update(touched)
        return touched

    engine.step = held  # type: ignore[method-assign]
