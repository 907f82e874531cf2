"""The records of an annotation file of any kind: JSON, delimited text, Parquet or Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.arrow import Rows, arrow_rows
from polite_flamingo.sources.reading.delimited import delimited, delimiter_of
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.file_kinds import ARROW
from polite_flamingo.sources.reading.json_values import JsonDecoder, json_in, to_json_value
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, json_lines, members, only_value
from polite_flamingo.sources.records.annotation_files import AnnotationFile, annotation_files
from polite_flamingo.sources.records.source import Place, Records, SourceOptions

WRAPPERS = ("data", "rows", "records", "examples", "samples", "items", "instances", "annotations", "train")
"""Names under which an object may hold its list of records."""

NOTHING_READ = 100
"""If this many rows fail at the start of a file, it is the wrong file."""


def file_rows(
    file: AnnotationFile, scratch: Scratch, columns: set[str] | None = None, *, as_written: bool = False
) -> Iterator[Any]:
    """Yield the records of a file: JSON values, or a `BadSample` for each record that cannot be read.

    Args:
        file: a file of any kind. In delimited text, cells that hold a JSON list or object are parsed.
        scratch: collects notes of what is guessed.
        columns: the columns of Parquet and Arrow to read; None reads all.
        as_written: make JSON numbers `WrittenNumber`, which remember how they are written.

    Raises:
        SourceError: the file as a whole cannot be read, or its first `NOTHING_READ` rows all fail; also raised while
            iterating.
    """
    if file.kind == "empty":
        scratch.note(f"{file.name} is empty")
        return
    if file.kind in ARROW:
        found: Iterator[Any] = arrow_rows(file.path, file.kind, file.place, columns, scratch.note)
    elif file.kind == "delimited text":
        found = _delimited_rows(file.path)
    else:
        found = _json_rows(file, scratch, as_written=as_written)
    yield from refuse_if_nothing_reads(file.path, found)


def refuse_if_nothing_reads(path: Path, rows: Iterator[Any]) -> Iterator[Any]:
    """Yield rows unchanged. Raises `SourceError` if the first `NOTHING_READ` all fail: it is the wrong file."""
    first = list(islice(rows, NOTHING_READ))
    if len(first) == NOTHING_READ and all(isinstance(row, BadSample) for row in first):
        raise SourceError(
            f"{path}: none of the first {NOTHING_READ} lines is a record ({first[0].detail}); is it the right file?"
        )
    yield from chain(first, rows)


def _json_rows(file: AnnotationFile, scratch: Scratch, *, as_written: bool = False) -> Iterator[Any]:
    """Yield the records of a JSON file."""
    decoder = JsonDecoder(as_written=as_written)
    if file.kind == "JSON object":
        found, what = _records_of_object(file.path, decoder)
        if what:
            scratch.note(f"{file.name} is one object: {what}")
    else:
        found = (elements if file.kind == "JSON list" else json_lines)(file.path, decoder)
    for value in found:
        yield decoder.checked(value)


def _records_of_object(path: Path, decoder: JsonDecoder) -> tuple[Iterator[Any], str]:
    """Return the records of an object, and what was taken for them; "" if it is one record itself."""
    lists, others, inner = [], [], []
    plain_lists = 0
    for name, value in members(path):
        first = next(value, None) if isinstance(value, Iterator) else None
        plain_lists += isinstance(first, str | int | float)
        if isinstance(first, dict) and name in WRAPPERS:
            lists.append(name)
        else:
            others.append(name)
            inner.append(value.keys() if isinstance(value, dict) else set())
    if len(lists) == 1 and not {"conversations", "messages"} & set(others):
        left = f", the rest of it is left out: {', '.join(map(repr, others))[:200]}" if others else ""
        found = (item for name, value in members(path, decoder=decoder) if name == lists[0] for item in value)
        return map(_unwrapped, found), f"the records are those of its list {lists[0]!r}{left}"
    common = set.intersection(*map(set, inner)) if len(inner) > 1 and not lists else set()
    if (common and all(name.isdecimal() for name in common)) or 1 < len(others) == plain_lists:
        remedy = "write it as records: in pandas, to_json(path, orient='records', lines=True)"
        raise SourceError(f"{path} is one object of columns, not a list of records: {remedy}")
    if common:
        named = ({"id": name} | value for name, value in members(path, decoder=decoder))
        return named, "the records are its members, their names the ids"
    return iter([only_value(path, decoder)]), ""


def _unwrapped(row: Any) -> Any:
    """Return the record in a row of a response of Hugging Face's dataset viewer."""
    found = row.get("row") if isinstance(row, dict) and "row_idx" in row else None
    return found if isinstance(found, dict) else row


def _delimited_rows(path: Path) -> Rows:
    delimiter, named = delimiter_of(path)
    rows = delimited(path, delimiter, skip=int(named))
    header = next(rows, None)
    if header is None:
        return
    if isinstance(header, BadSample) or len(header) < 2:
        raise SourceError(f"{path} is text, and neither JSON nor a table: its first line does not name several columns")
    for row in rows:
        yield row if isinstance(row, BadSample) else dict(zip(header, map(json_in, row), strict=True))


def file_records(options: SourceOptions, scratch: Scratch, part: str) -> Records:
    """Yield the records of all files with their places, as `Source.records` does; `part` names them in a place.

    Raises:
        SourceError: see `annotation_files` and `file_rows`.
    """
    for file in annotation_files(options, scratch):
        yield from records_of(file, scratch, part)


def records_of(file: AnnotationFile, scratch: Scratch, part: str) -> Records:
    """Yield the records of one file as `file_records` does."""
    place = Place(file=file.name, part=part, split=file.split)
    for number, row in enumerate(file_rows(file, scratch)):
        yield place, number, _checked(row) if file.kind in ARROW else row


def _checked(row: Any) -> Any:
    try:
        return row if isinstance(row, BadSample) else to_json_value(row, "the row")
    except BadSample as bad:
        return bad
