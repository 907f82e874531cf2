"""Fields and file names that are about something other than images and text: videos, sound, documents."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from polite_flamingo.sources.records.field_meanings import (
    MEDIA,
    MEDIA_ASIDE,
    MEDIA_ENDINGS,
    MODALITY_NAMES,
    PICTURE_ENDINGS,
    Where,
)


def plain_name(name: str) -> str:
    """Return the name without case, hyphens and underscores, for comparisons."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def media_of_field(name: str, value: Any, where: Where) -> str:
    """Tell what a field holds if not pictures and text: "a video", "audio"; else ""."""
    if isinstance(value, int | float) and value is not True:  # a field `is_video` says so too
        return ""
    said = re.findall(r"[a-z]+", str(value).lower()) if where == "record" and plain_name(name) in MODALITY_NAMES else []
    if medium := _medium_in(said):
        return medium
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_")
    if words[-1] in MEDIA_ASIDE:
        return ""
    found = _medium_in(words) or media_of_file(value)
    return "" if found == "a document" else found


def _medium_in(words: Iterable[str]) -> str:
    return next((MEDIA[word] for word in words if word in MEDIA), "")


def media_of_file(value: Any) -> str:
    """Tell what the file behind a name, or a list of names, is if not a picture: "a video", "a document"; else ""."""
    names = value if isinstance(value, list) else [value]
    for one in names:
        if isinstance(one, str) and len(one) < 4096 and "\n" not in one.strip():
            found = re.fullmatch(r"\S*[^\s.]\.([A-Za-z0-9]{2,4})(?:[?#]\S*)?", one.strip())
            if found and found[1].lower() in MEDIA_ENDINGS:
                return MEDIA_ENDINGS[found[1].lower()]
    return ""


def may_name_picture(value: Any) -> bool:
    """Whether a field holds the name of a picture, or a list with one."""
    names = value if isinstance(value, list) else [value]
    return any(
        isinstance(one, str) and one.strip().lower().endswith(_PICTURE_SUFFIXES) and len(one) < 1000 and "\n" not in one
        for one in names
    )


_PICTURE_SUFFIXES = tuple(f".{ending}" for ending in PICTURE_ENDINGS)
