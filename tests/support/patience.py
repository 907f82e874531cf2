"""Waiting for what other threads and processes do: as short as it takes, and long enough for the slowest machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0
"""Seconds for what must come; below pytest's own limit, so that it is the test that says what did not."""


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Look again and again; fails where it never becomes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
