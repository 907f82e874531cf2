"""What a paragraph and a sentence of a rewritten text are: the units that CLIPScore scores and selection removes."""

from __future__ import annotations

from collections.abc import Sequence

PIECES = 10


def paragraphs(text: str) -> list[str]:
    """The text between blank lines, as it stands.

    The reference splits at every blank line and would score an empty paragraph between two of them; here that is none.
    """
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]


def join_paragraphs(kept: Sequence[str]) -> str:
    """Inverse of `paragraphs`, for those that stay."""
    return "\n\n".join(kept)


def pieces(text: str) -> list[str]:
    """The first ten of the text cut at full stops, those inside numbers too, empty ones included; never no piece."""
    return text.split(".")[:PIECES]
