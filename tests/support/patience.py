"""Wait for other threads and processes: no longer than needed, and long enough for the slowest machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0
"""Seconds to wait; less than pytest's own limit, so that the test says what did not happen."""


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Poll until the condition is true; fail if it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
