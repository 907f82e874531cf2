"""Golden numbers of the reference, where this checkout has them beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("POLITE_FLAMINGO_SHARED", Path(__file__).parents[2].parent / "shared"))


def golden(name: str) -> Any:
    """One JSON file of the reference; skips the test where it is absent."""
    path = SHARED / "reference" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set POLITE_FLAMINGO_SHARED to the folder with the reference's numbers")
    return json.loads(path.read_text())
