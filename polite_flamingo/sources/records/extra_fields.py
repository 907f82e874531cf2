"""The fields of a record that its source does not read: honoured, refused, or kept and noted (`field_meanings.py`).

A source reads its own fields and passes their names to `check_fields`, which deals with the rest. So no field is lost
silently, whatever it is called.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import describe_type
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.cell_references import is_cell_reference, read_cell
from polite_flamingo.sources.records.field_meanings import (
    BAD_WORDS,
    FIELDS,
    MODALITY_NAMES,
    OPINIONS,
    SPEAKERS,
    Field,
    Where,
)
from polite_flamingo.sources.records.media_fields import media_of_field, plain_name
from polite_flamingo.sources.records.source import Records, SourceOptions

MAX_NOTES = 100
"""Maximum distinct notes per source; a file with other field names in each record would fill the screen."""

RESERVED = frozenset({
    "source", "images", "instruction", "system", "joined", "left_out_before", "left_out_after", "unmarked",
    "marks_added",
})  # fmt: skip
"""Names in `meta` that this project uses itself; a record's own field of that name is kept as `record.NAME`."""


_DEPTH = 50
_VERDICTS = ("learn", "mask", "gone", "good", "bad", "opinion")


@dataclass
class Findings:
    """What the fields of a record say, apart from its texts.

    Attributes:
        meta: the kept fields, by their place in the record: `rating`, `messages[2].name`.
        notes: what to tell the user, each note once.
        learned: whether the record says to learn it; None if it says nothing.
        bad: whether it calls the answer bad.
        why: the field that says so, or that says not to learn it.
        unread: fields with bytes (Parquet, Arrow), which are left out.
        by_turn: whether to learn each message or each response, if a field gives a list; else None.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    learned: bool | None = None
    bad: bool = False
    why: str = ""
    unread: list[str] = field(default_factory=list)
    by_turn: list[bool] | None = None

    def note(self, text: str) -> None:
        """Add a note for the user."""
        self.notes[text] = None

    def keep(self, place: str, name: str, value: Any, says: str = "") -> None:
        """Keep a field in `meta`, and note that it is kept."""
        self.meta[_writable(f"record.{place}" if place in RESERVED else place)] = _writable(value)
        self.note(f"field {_quoted(name)}{f': {says}' if says else ' is not known'}; kept in meta")


def check_fields(
    fields: Mapping[str, Any], read: Collection[str], found: Findings, where: Where = "record", place: str = ""
) -> None:
    """Honour, refuse or keep the fields that a source does not read itself.

    Args:
        fields: the fields of a record, a message or a part.
        read: names of the fields that the source reads.
        found: collects what is kept and noted.
        where: whose fields they are.
        place: prefix of the field's name in `meta`: "", or "messages[2].".

    Raises:
        BadSample: `unsupported` for a field that cannot be read, `excluded` if the record must not be used; both name
            the field.
    """
    for name, value in fields.items():
        if name in read or value is None:
            continue
        what = f"field {_quoted(name)}" + (f" of {place[:-1]}" if place else "")
        medium = media_of_field(name, value, where)
        if medium and not is_empty(value):
            raise BadSample("unsupported", f"{what} holds {medium}: only pictures and text are read")
        if medium:
            continue
        if is_cell_reference(value):
            found.unread.append(name)
            found.note(f"column {_quoted(name)} holds bytes and is not known; left out")
            continue
        for known in _BY_NAME.get((where, plain_name(name)), ()):
            if _apply(known, name, value, what, found, where, place):
                break
        else:
            found.keep(f"{place}{name}", name, value)


def changes_meaning(name: str, value: Any = None) -> bool:
    """Whether an unread field may change what its record means: by its name, or because it names a video."""
    by_name, by_any_word = _name_changes_meaning(name)
    if by_name or not isinstance(value, str | list):
        return by_name
    if isinstance(value, str) and "." not in value and not by_any_word:
        return False  # like nearly all cells, it does not name a file
    return bool(media_of_field(name, value, "record"))


@lru_cache(maxsize=1 << 16)
def _name_changes_meaning(name: str) -> tuple[bool, bool]:
    """Whether the name alone changes the meaning, and whether a word of the value can."""
    verdict = any(known.kind in _VERDICTS for known in _BY_NAME.get(("record", plain_name(name)), ()))
    return verdict or bool(media_of_field(name, None, "record")), plain_name(name) in MODALITY_NAMES


def check_single_answer(fields: Mapping[str, Any], read: Collection[str], found: Findings) -> None:
    """Like `check_fields`, for a record with one answer.

    Raises:
        BadSample: `unsupported` for a video or a sound, `excluded` for an answer that is bad or not to be learned.
    """
    check_fields(fields, read, found)
    if found.by_turn is not None and not all(found.by_turn):
        raise BadSample("excluded", f"{found.why} says not to learn it")


def without_empty_cells(record: dict[str, Any], options: SourceOptions, unless: Collection[str] = ()) -> dict[str, Any]:
    """Return the record without empty cells of Parquet and Arrow: a column of videos may be empty in a row.

    Args:
        record: a record of any source.
        options: where the cells lie.
        unless: fields to keep unread, because their pictures are read later.

    Raises:
        BadSample: a cell cannot be read.
    """
    return {
        name: value
        for name, value in record.items()
        if not (is_cell_reference(value) and name not in unless and _holds_nothing(read_cell(value, options)))
    }


def _holds_nothing(cell: Any) -> bool:
    if isinstance(cell, dict):
        return all(map(_holds_nothing, cell.values()))
    return not cell if cell is None or isinstance(cell, bytes | str | list) else False


def as_bool(value: Any, *, numbers: bool = True) -> bool | None:
    """Parse a boolean, also written as 0, 1 (with `numbers`) or a word; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if numbers and value in (0, 1) else None
    if isinstance(value, str):
        return (_WORDS | (_DIGITS if numbers else {})).get(value.strip().lower())
    return None


_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_DIGITS = {"1": True, "0": False, "1.0": True, "0.0": False}


def with_notes(records: Records, notes: Any, scratch: Scratch) -> Records:
    """Yield the records, and add `notes(record)` of each that is not quarantined to the scratch space."""
    said: set[str] = set()
    for place, number, record in records:
        try:
            lines = notes(_unseen(record)) if isinstance(record, dict) else ()
        except BadSample:
            lines = ()
        for line in lines:
            if line not in said and len(said) >= MAX_NOTES:
                line = "more fields are not known; kept in meta"
            said.add(line)
            scratch.note(line)
        yield place, number, record


def _unseen(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without cells of bytes that may be a video, a sound or empty: only `build` reads them."""
    return {
        name: value
        for name, value in record.items()
        if not (is_cell_reference(value) and media_of_field(name, value, "record"))
    }


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: null, "", [], {}, also written as JSON in a string."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or value in ([], {})


def _apply(known: Field, name: str, value: Any, what: str, found: Findings, where: Where, place: str) -> bool:
    """Apply one meaning of a field; return whether that settles it."""
    if known.kind == "refused":
        if is_empty(value) or value is False:
            return True
        if isinstance(value, int | float):
            return False
        raise BadSample("unsupported", f"{what} holds {known.says}, which is not read")
    if known.kind == "kept":
        found.keep(f"{place}{name}", name, value, known.says)
        return True
    if known.kind == "opinion":
        return _bad_opinion(name, value) and _excluded(what, value, found, where)
    if known.kind in ("learn", "mask"):
        return _learning(known.kind == "learn", value, what, found, where)
    flag = as_bool(value, numbers=known.numbers)
    if flag is None:
        return False
    if flag == (known.kind == "good"):
        return True
    if known.kind == "gone":
        raise BadSample("excluded", f"{what} says not to use it")
    return _excluded(what, value, found, where)


def _excluded(what: str, value: Any, found: Findings, where: Where) -> bool:
    """Refuse a record whose answer is called bad; note that a message's answer is not learned."""
    if where == "record":
        raise BadSample("excluded", f"{what} calls the answer bad ({_quoted(str(value))})")
    found.bad, found.why = True, what
    return True


def _learning(learn: bool, value: Any, what: str, found: Findings, where: Where) -> bool:
    turns = value if where == "record" and isinstance(value, list) else []
    if turns and not any(isinstance(turn, dict | list) for turn in turns):
        flags = [as_bool(turn) for turn in turns]
        if None in flags or found.by_turn is not None:
            raise BadSample("unsupported", f"{what} must say yes or no for each turn, and only one field may")
        found.by_turn, found.why = [bool(flag) == learn for flag in flags], what
        return True
    flag = as_bool(value)
    if flag is None and isinstance(value, str):
        return _masked_role(value, what)
    if flag is None and where == "message":
        raise BadSample("unsupported", f"{what} is {describe_type(value)}: a response is learned or it is not (1 or 0)")
    if flag is None:
        return False
    if flag == learn:
        found.learned = found.learned is not False
    elif where == "record":
        raise BadSample("excluded", f"{what} says not to learn it")
    else:
        found.learned, found.why = False, what
    return True


def _masked_role(value: str, what: str) -> bool:
    """Whether the value names the human, as the speaker who is not learned: NeMo's kind of mask."""
    role = value.strip().lower()
    if SPEAKERS.get(role) == "assistant":
        raise BadSample("unsupported", f"{what}: the human's words would be learned instead of the answers")
    return role in SPEAKERS


def _bad_opinion(name: str, value: Any) -> bool:
    plain = plain_name(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value is False and plain in OPINIONS
    if isinstance(value, str):
        word = value.strip().lower().replace("-", "_").replace(" ", "_")
        return word in BAD_WORDS or (plain in OPINIONS and word in ("negative", "no", "false", "_1", "0"))
    return plain in OPINIONS and value < 0


_BY_NAME: dict[tuple[str, str], list[Field]] = {}
for _field in FIELDS:
    for _where in _field.where:
        for _name in _field.names:
            _BY_NAME.setdefault((_where, plain_name(_name)), []).append(_field)


def _quoted(text: str) -> str:
    return repr(_writable(text if len(text) <= 40 else text[:37] + "…"))


def _writable(value: Any, depth: int = 0) -> Any:
    """Make a value that JSON can hold: NaN and infinity become null, a lone surrogate "?"."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > _DEPTH and isinstance(value, list | dict):
        return f"({describe_type(value)} nested too deeply)"
    if isinstance(value, list):
        return [_writable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_writable(str(name)): _writable(item, depth + 1) for name, item in value.items()}
    return value
