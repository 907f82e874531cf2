"""Conversations: who says what, and which images are shown where.

`record_layouts.py` finds the messages of a record, `extra_fields.py` handles all fields but them and the pictures.
Nothing here reads an image or pairs messages into turns (`turns.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import list_field, verbatim
from polite_flamingo.sources.records.extra_fields import Findings, check_fields, is_empty
from polite_flamingo.sources.records.field_meanings import IMAGE_NAMES
from polite_flamingo.sources.records.grounding import GroundedObjects
from polite_flamingo.sources.records.message_content import Message, read_entry
from polite_flamingo.sources.records.placeholders import (
    ShownImage,
    check_placeholders,
    has_thoughts,
    image_places,
    names_image,
)
from polite_flamingo.sources.records.record_layouts import entries_of, is_answer

SYSTEM = ("system", "system_prompt", "system_message")


@dataclass
class Conversation:
    """The conversation that a record holds.

    Attributes:
        messages: the messages in order.
        pictures: those that the record's own fields name: each a name, or whatever holds the picture.
        pictures_in: the field that names them.
        pictured: whether the record shows any pictures, from its fields or in its texts.
        numbered_from: the number of the first picture, if the record says so.
        objects: names and boxes that placeholders in the texts stand for.
        found: what all other fields say, and what is kept of them.
    """

    messages: list[Message]
    pictures: list[Any] = field(default_factory=list)
    pictures_in: str = ""
    pictured: bool = False
    numbered_from: int | None = None
    objects: GroundedObjects | None = None
    found: Findings = field(default_factory=Findings)


def read_conversation(record: dict[str, Any]) -> Conversation:
    """Read a record of any of the layouts.

    Raises:
        BadSample: it is not a conversation, says not to use it, or holds something that is not read.
    """
    name, entries, read = entries_of(record)
    conversation, named = _with_pictures(record)
    read |= {"id", name, "objects", *named, *SYSTEM}
    read |= {"chosen"} if is_answer(record.get("chosen")) else set()
    check_fields(record, read, conversation.found)
    raw = [
        Message("system", (verbatim(record[key], f"field {key!r}"),))
        for key in SYSTEM
        if record.get(key) is not None and record[key] != ""
    ]
    first = len(raw)
    for number, entry in enumerate(entries):
        raw += read_entry(entry, name, number, conversation.found)
    _finish(conversation, _flagged(raw, first, len(entries), conversation.found), record)
    return conversation


def read_alternating_turns(record: dict[str, Any]) -> Conversation:
    """Read a record of UltraChat, in which human and assistant alternate, the human first."""
    conversation, named = _with_pictures(record)
    check_fields(record, {"id", "data", *named}, conversation.found)
    raw = [
        Message("assistant" if number % 2 else "human", (verbatim(text, f"data[{number}]"),))
        for number, text in enumerate(list_field(record, "data"))
    ]
    _finish(conversation, _flagged(raw, 0, len(raw), conversation.found), record)
    return conversation


def _with_pictures(record: dict[str, Any]) -> tuple[Conversation, list[str]]:
    """Start a conversation with the pictures that the record's fields name; also return those fields."""
    conversation = Conversation([])
    named: list[str] = []
    for name in IMAGE_NAMES:
        value = record.get(name)
        if is_empty(value):
            continue
        if isinstance(value, dict) and all(key.startswith("<") for key in value):  # MiniCPM: {"<image_00>": path}
            numbers = [int(digits) for key in value if (digits := "".join(filter(str.isdigit, key)))]
            if len(numbers) != len(value) or sorted(numbers) != list(range(min(numbers), min(numbers) + len(numbers))):
                raise BadSample("bad_field", f"the places in field {name!r} are not numbered in a row")
            conversation.numbered_from = min(numbers)
            value = [value[key] for _, key in sorted(zip(numbers, value, strict=True))]
        pictures = [picture for picture in (value if isinstance(value, list) else [value]) if picture is not None]
        if not conversation.pictures:
            conversation.pictures = pictures
            named.append(name)
        elif all(picture in conversation.pictures for picture in pictures):
            named.append(name)
        else:
            raise BadSample("bad_field", f"fields {named[0]!r} and {name!r} name different pictures")
    named = named or ["image", "images"]
    conversation.pictures_in = named[0]
    return conversation, named


def _flagged(raw: list[Message], first: int, entries: int, found: Findings) -> list[Message]:
    """Apply a field of the record that says which messages, or which answers, to learn.

    Args:
        raw: the messages in order.
        first: the position of the first message that comes from the record's list.
        entries: how long that list is.
        found: the findings of the record.
    """
    if found.by_turn is None:
        return raw
    answers = [number for number, message in enumerate(raw) if message.speaker == "assistant"]
    spoken = list(range(first, len(raw)))
    which = {len(spoken): spoken, entries: spoken if entries == len(spoken) else [], len(answers): answers}
    numbers = which.get(len(found.by_turn), [])
    if len(numbers) != len(found.by_turn):
        said = f"whether {len(found.by_turn)} turns are learned; the record has {len(answers)} answers"
        raise BadSample("unsupported", f"a field of the record says {said}")
    silent = {number for number, flag in zip(numbers, found.by_turn, strict=True) if not flag}
    return [
        replace(message, learned=False, why=found.why)
        if number in silent and message.speaker == "assistant"
        else message
        for number, message in enumerate(raw)
    ]


def _finish(conversation: Conversation, raw: Sequence[Message], record: dict[str, Any]) -> None:
    """Add the messages: picture placeholders become marks; placeholders of anything that is not read are refused."""
    conversation.pictured = bool(conversation.pictures) or any(
        isinstance(piece, ShownImage) or (message.speaker == "human" and names_image(piece))
        for message in raw
        for piece in message.pieces
    )
    objects = record.get("objects")
    if not is_empty(objects) and any("<bbox>" in message.text or "<ref-object>" in message.text for message in raw):
        conversation.objects = GroundedObjects.read(objects)
    elif not is_empty(objects):
        check_fields({"objects": objects}, (), conversation.found)
    for message in raw:
        if message.speaker == "human":
            message = _number_links(message, conversation.pictures)
        if message.speaker == "human" or conversation.pictured:
            check_placeholders(message.text, pictured=conversation.pictured, objects=conversation.objects is not None)
        if message.speaker != "human" and conversation.pictured and names_image(message.text):
            raise BadSample("unsupported", f"the {message.speaker} names a picture's path")
        if message.speaker == "assistant" and has_thoughts(message.text):
            conversation.found.note("answers contain thoughts ('<think>'), which are taught unchanged")
        conversation.messages.append(_with_places(message, conversation.pictured))


_LINK = re.compile(r"!\[[^\]\n]*\]\(([^()\s]+)\)")


def _number_links(message: Message, pictures: Sequence[Any]) -> Message:
    """Replace Markdown that shows one of the record's pictures by a numbered mark."""
    first = {name: number for number, name in reversed(list(enumerate(pictures, start=1))) if isinstance(name, str)}

    def mark(link: re.Match[str]) -> str:
        return f"<image_{first[link[1]]}>" if link[1] in first else link[0]

    pieces = (_LINK.sub(mark, piece) if isinstance(piece, str) else piece for piece in message.pieces)
    return replace(message, pieces=tuple(pieces)) if first else message


def _with_places(message: Message, pictured: bool) -> Message:
    """Replace the picture placeholders of a human's message by the pictures."""
    if message.speaker != "human":
        return message
    pieces: list[str | ShownImage] = []
    for piece in message.pieces:
        pieces += [piece] if isinstance(piece, ShownImage) else image_places(piece, pictured=pictured)
    return replace(message, pieces=tuple(pieces))
