"""One entry of a conversation: its speaker, its texts and its images, before placeholders are resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import as_object, required, verbatim
from polite_flamingo.sources.records.extra_fields import Findings, check_fields, is_empty
from polite_flamingo.sources.records.field_meanings import SPEAKERS, Where
from polite_flamingo.sources.records.placeholders import ShownImage, text_of

QUESTION_FIELDS = ("user", "human", "question", "query", "instruction", "prompt", "input")
ANSWER_FIELDS = ("assistant", "gpt", "answer", "response", "output", "completion", "bot")
"""Fields of a question and its answer in one entry; the first that is present counts."""


@dataclass(frozen=True)
class Message:
    """What one speaker says.

    Attributes:
        speaker: "human", "assistant" or "system".
        pieces: the texts, and the pictures between them.
        learned: whether an answer may be learned.
        bad: whether a human's message calls what it asks for, or its answer, bad.
        why: the field that says so, or that says not to learn it.
    """

    speaker: str
    pieces: tuple[str | ShownImage, ...]
    learned: bool = True
    bad: bool = False
    why: str = ""

    @property
    def text(self) -> str:
        """The message's text, with the mark `<image>` where a picture is shown."""
        return text_of(self.pieces)

    @property
    def shown(self) -> list[ShownImage]:
        """The message's pictures, in order."""
        return [piece for piece in self.pieces if isinstance(piece, ShownImage)]


def read_entry(entry: Any, name: str, number: int, found: Findings) -> list[Message]:
    """Read an entry: one message, or the two of a question and its answer."""
    what, fields = f"{name}[{number}]", as_object(entry)
    if "from" not in fields and "role" not in fields:
        asks = next((key for key in QUESTION_FIELDS if isinstance(fields.get(key), str)), None)
        answers = next((key for key in ANSWER_FIELDS if isinstance(fields.get(key), str)), None)
        if asks and answers:
            own = _own_findings(fields, {asks, answers}, found, "message", what)
            human = make_message("human", fields[asks], f"{what}.{asks}", own, found)
            return [human, make_message("assistant", fields[answers], f"{what}.{answers}", own, found)]
    role_field = "from" if "from" in fields else "role"
    role = verbatim(required(fields, role_field), f"the role of {what}")
    if role.lower() not in SPEAKERS:
        raise BadSample("unsupported", f"{what} has the role {role[:40]!r}, which is neither human nor assistant")
    said = next((key for key in ("value", "content", "text") if key in fields), "content")
    value = required(fields, said)
    read = {role_field, said}
    if value is None and isinstance(fields.get("refusal"), str):
        value = fields["refusal"]
        read.add("refusal")
    own = _own_findings(fields, read, found, "message", what)
    return [make_message(SPEAKERS[role.lower()], value, what, own, found)]


def unzipped(value: Any) -> Any:
    """Return the rows of an object of columns, as `datasets` stores `Sequence({…})`; any other value unchanged."""
    columns = list(value.values()) if isinstance(value, dict) else []
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return value


def make_message(speaker: str, value: Any, what: str, own: Findings, found: Findings) -> Message:
    """Make a message, with what its own fields say about learning it."""
    pieces = content_of(value, what, found)
    if speaker != "human" and any(isinstance(piece, ShownImage) for piece in pieces):
        raise BadSample("unsupported", f"{what}: the {speaker} shows a picture")
    if own.learned and speaker == "human":
        found.note("human messages are never learned, whatever their fields say")
    learned = speaker != "assistant" or (own.learned is not False and not own.bad)
    return Message(speaker, tuple(pieces), learned, own.bad and speaker == "human", own.why)


def content_of(value: Any, what: str, found: Findings) -> list[str | ShownImage]:
    """List a message's texts and pictures, in order."""
    value = unzipped(value)
    if not isinstance(value, list | dict):
        return [verbatim(value, f"the text of {what}")]
    pieces: list[str | ShownImage] = []
    for number, part in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        pieces.append(_read_part(as_object(part), f"{what}[{number}]", found))
    return pieces


TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "")
IMAGE_PARTS = ("image", "image_url", "input_image", "image_file", "img", "image_path", "image_pil", "")
IMAGE_FIELDS = (
    "image", "image_url", "input_image", "path", "url", "image_path", "base64", "bytes", "data", "source", "img",
)  # fmt: skip
"""Fields of a part that name or hold its picture; the first that is not empty counts."""


def _read_part(part: dict[str, Any], what: str, found: Findings) -> str | ShownImage:
    kind = part.get("type") or ""
    if not isinstance(kind, str) or kind not in (*TEXT_PARTS, *IMAGE_PARTS):
        raise BadSample("unsupported", f"{what} is of type {str(kind)[:40]!r}: only text and pictures are read")
    said = next((key for key in ("text", "refusal", "input_text", "output_text") if part.get(key) is not None), None)
    held = next((key for key in IMAGE_FIELDS if not is_empty(part.get(key))), None)
    if kind in TEXT_PARTS and (said or kind) and not (held and not said):
        _own_findings(part, {"type", said or "text"}, found, "part", what)
        return verbatim(required(part, said or "text"), f"the text of {what}")
    _own_findings(part, {"type", "text", "index", held or ""}, found, "part", what)
    if said and str(part[said]).strip():
        raise BadSample("unsupported", f"{what} has both text and a picture")
    index = part.get("index")
    if held is None and isinstance(index, int) and not isinstance(index, bool):
        return ShownImage(number=index)
    return ShownImage(reference=part[held] if held else None)


def _own_findings(fields: dict[str, Any], read: set[str], found: Findings, where: Where, what: str) -> Findings:
    """Find what the fields of a message or a part say. What is kept is added to `found`, the record's findings."""
    own = Findings()
    check_fields(fields, read, own, where, f"{what}.")
    found.meta |= own.meta
    found.notes |= own.notes
    found.unread += own.unread
    return own
