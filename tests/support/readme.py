"""Code of the README, as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language ("" for plain ones), in order."""
    text = (REPO / "README.md").read_text()
    fenced: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for found, code in fenced if found == language]


def commands() -> list[str]:
    """Return the shell commands, in order, each on one line."""
    return "".join(blocks("bash")).replace("\\\n", " ").splitlines()


def python_snippet(containing: str) -> str:
    """Return the only Python block that contains a word."""
    (found,) = (block for block in blocks("python") if containing in block)
    return found
