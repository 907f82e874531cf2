"""deploy/Dockerfile and .dockerignore, as far as our image uses them."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return each instruction and its arguments, in order."""
    text = re.sub(r"^\s*#.*\n", "", (REPO / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def admitted() -> list[str]:
    """Return the paths that `.dockerignore` lets into a build; it ignores all others."""
    lines = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line[0] == "!"]
