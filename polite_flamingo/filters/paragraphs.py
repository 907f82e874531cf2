"""Paragraphs and sentences of a rewritten text: the units that CLIPScore scores and selection removes."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PIECES = 10

FULL_STOPS = ".。．｡।۔።။។"
"""The reference knows the first one. The others end sentences in Chinese, Japanese, Hindi, Urdu, Amharic, Burmese and
Khmer."""


def paragraphs(text: str) -> list[str]:
    """Split a text at blank lines, unchanged otherwise.

    The reference also scores the empty paragraph between two blank lines; here it does not count.
    """
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]


def join_paragraphs(kept: Sequence[str]) -> str:
    """Join paragraphs; the inverse of `paragraphs`."""
    return "\n\n".join(kept)


def pieces(text: str) -> list[str]:
    """Split a text at full stops, even inside numbers; return the first ten pieces, including empty ones."""
    return re.split(f"[{FULL_STOPS}]", text)[:MAX_PIECES]
