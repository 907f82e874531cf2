"""Finds what stands in a text for something else: images, objects, boxes, media (`placeholder_table.py`).

The placeholder of an image becomes the mark `<image>`; objects and boxes are put into words (`grounding.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample
from polite_flamingo.sources.records.field_meanings import MEDIA_ENDINGS
from polite_flamingo.sources.records.grounding import grounding_in_words
from polite_flamingo.sources.records.placeholder_table import PLACEHOLDERS, Placeholder


@dataclass(frozen=True)
class ShownImage:
    """A picture at its place in a text.

    Attributes:
        written: the placeholder; "" if it is not part of a text.
        reference: the picture, if the placeholder itself names or holds it.
        number: which of the record's pictures it is, as written.
    """

    written: str = ""
    reference: Any = None
    number: int | None = None


_ALL = re.compile("|".join(f"(?P<p{number}>{one.pattern})" for number, one in enumerate(PLACEHOLDERS)), re.I)
_OPENS = re.compile(r"[<\[({]")
"""What every placeholder begins with."""

_HTML = re.compile(
    r"</(?:div|p|a|ul|li|span|head|body|html|script|style|video|audio|picture|svg|table)>|<!doctype|\bhtml", re.I
)
_MEDIA_FILE = re.compile(rf"<(?:video|audio)>\s*[^<>\n]+\.(?:{'|'.join(MEDIA_ENDINGS)})\s*</", re.I)


def find_placeholders(text: str) -> Iterator[tuple[Placeholder, re.Match[str], str]]:
    """Yield the placeholders of a text in order, with the text of their group."""
    end = 0
    for start in _OPENS.finditer(text):  # trying all patterns at each letter would take milliseconds per text
        match = _ALL.match(text, start.start()) if start.start() >= end else None
        if match is None:
            continue
        end = match.end()
        assert match.lastgroup and match.lastindex  # the group of the placeholder; its own group, if any, comes next
        placeholder = PLACEHOLDERS[int(match.lastgroup[1:])]
        yield placeholder, match, match[match.lastindex + 1] if placeholder.takes else ""


def check_placeholders(text: str, *, pictured: bool, objects: bool = False) -> None:
    """Refuse placeholders of anything that is not read.

    Args:
        text: what one speaker says.
        pictured: whether the record shows pictures; in a text about other things, a word may look like a placeholder.
        objects: whether the record names objects and boxes.

    Raises:
        BadSample: `unsupported`, naming the placeholder.
    """
    html = bool(_HTML.search(text)) and not _MEDIA_FILE.search(text)
    for placeholder, match, _ in find_placeholders(text):
        written = repr(match[0][:40])
        quoted = text[max(0, match.start() - 1) : match.start()] == text[match.end() : match.end() + 1] == "`"
        ordinary = (placeholder.text and not pictured) or (placeholder.html and html) or quoted
        if placeholder.becomes == "refused" and not ordinary:
            raise BadSample("unsupported", f"{written} in a text: {placeholder.says}, which is not read")
        if placeholder.becomes in ("object", "box") and not objects and not ordinary:
            raise BadSample("unsupported", f"{written} in a text, and the record names no objects for it")
        if placeholder.becomes == "picture" and not (pictured or ordinary):
            raise BadSample("unsupported", f"{written} in a text shows a picture, and the record has none")


def names_image(text: str) -> bool:
    """Whether a text holds a picture's path between marks."""
    return any(placeholder.takes == "path" for placeholder, _, _ in find_placeholders(text))


def has_thoughts(text: str) -> bool:
    """Whether thoughts are marked in a text."""
    return any(placeholder.becomes == "noted" for placeholder, _, _ in find_placeholders(text))


def image_places(text: str, *, pictured: bool) -> list[str | ShownImage]:
    """Split a human's text into pieces: strings, and the pictures in their places.

    Args:
        text: the text as written.
        pictured: whether the record shows pictures; else only `<image>` itself is a place.
    """
    pieces: list[str | ShownImage] = []
    end = 0
    for placeholder, match, taken in find_placeholders(text):
        if placeholder.becomes != "picture" or not (pictured or match[0] == IMAGE_MARK):
            continue
        times = max(1, match[0].lower().count(IMAGE_MARK)) if match[0].startswith("<fake") else 1
        path = taken.strip() if placeholder.takes == "path" else None
        place = ShownImage(match[0], path, int(taken) if placeholder.takes == "number" else None)
        pieces += [text[end : match.start()], *[place] * times]
        end = match.end()
    return [*pieces, text[end:]]


def text_of(pieces: Iterable[str | ShownImage]) -> str:
    """Join the pieces of a text, with the mark `<image>` where a picture is shown."""
    return "".join(IMAGE_MARK if isinstance(piece, ShownImage) else piece for piece in pieces)


def image_marks_in_text(text: str, pictures: int) -> str:
    """Rewrite one speaker's text about pictures given in order: `<image>` for each placeholder, boxes in words.

    Args:
        text: the text as written.
        pictures: how many the record shows; with none, only `<image>` itself is a place.

    Raises:
        BadSample: `unsupported` for placeholders of anything that is not read, or of the pictures in another order.
    """
    check_placeholders(text, pictured=pictures > 0)
    pieces = image_places(text, pictured=pictures > 0)
    shown = [piece for piece in pieces if isinstance(piece, ShownImage)]
    numbers = [place.number for place in shown if place.number is not None]
    for place in shown:
        if place.reference is not None:
            raise BadSample("unsupported", f"{place.written[:60]!r} in a text names a picture: name it beside the text")
    if numbers and (numbers[0] not in (0, 1) or numbers != list(range(numbers[0], numbers[0] + len(shown)))):
        raise BadSample("unsupported", f"the pictures stand in a text in another order: {numbers}"[:200])
    return grounding_in_words(text_of(pieces)) if pictures else text_of(pieces)
