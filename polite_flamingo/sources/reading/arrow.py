"""Parquet and Arrow files: their rows without image bytes, and those bytes on request.

Parquet shards with images run to gigabytes, and one process plans all annotations. So a row holds a reference
{file, row, column} in place of bytes, and whoever builds the sample reads the cell (`read_cell`).
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute, ipc, parquet

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.arrow_types import (
    Convert,
    converter,
    holds_bytes,
    huggingface_features,
    is_picture_type,
    is_string_type,
    to_int,
)
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.storage.remote_path import RemotePath, open_at_random

Rows = Iterator[dict[str, Any] | BadSample]

_BATCH = 64
"""Rows decoded at once if they hold images."""

_UNREADABLE = (OSError, ValueError, pa.ArrowException)
"""What pyarrow raises for a damaged file."""


@dataclass(frozen=True)
class ArrowTable:
    """One file: its schema, and its batches.

    Attributes:
        schema: pyarrow's schema.
        groups: the number of rows in each part that reading can start from.
        batches: (part, column names, rows per batch) -> pyarrow batches.
    """

    schema: Any
    groups: list[int]
    batches: Callable[[int, list[str], int], Iterator[Any]]


def open_arrow(path: Path, kind: str) -> ArrowTable:
    """Open a file whose kind is "Parquet", "Arrow file" or "Arrow stream". Raises `SourceError`."""
    try:
        return {"Parquet": _parquet, "Arrow file": _ipc_file, "Arrow stream": _ipc_stream}[kind](path)
    except _UNREADABLE as error:
        raise SourceError(f"{path} cannot be read as {kind} ({_one_line(error)}); was it downloaded whole?") from None


def _parquet(path: Path) -> ArrowTable:
    source = open_at_random(path) if isinstance(path, RemotePath) else path
    file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)  # by page
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return ArrowTable(
        file.schema_arrow, groups, lambda group, names, size: file.iter_batches(size, [group], columns=names)
    )


def _opened(path: Path) -> Any:
    """Map a file into memory; one in a bucket is read by ranges."""
    return pa.PythonFile(open_at_random(path), mode="r") if isinstance(path, RemotePath) else pa.memory_map(str(path))


def _ipc_file(path: Path) -> ArrowTable:
    file = ipc.open_file(_opened(path))
    groups = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
    return ArrowTable(file.schema, groups, lambda group, names, size: _cut([file.get_batch(group)], names, size))


def _ipc_stream(path: Path) -> ArrowTable:
    def stream() -> Any:
        return ipc.open_stream(_opened(path))

    count = sum(batch.num_rows for batch in stream())
    return ArrowTable(stream().schema, [count], lambda _, names, size: _cut(stream(), names, size))


def _cut(batches: Iterable[Any], names: list[str], size: int) -> Iterator[Any]:
    """Yield the columns `names` of batches, at most `size` rows at a time."""
    for batch in batches:
        part = batch.select(names)
        yield from (part.slice(start, size) for start in range(0, part.num_rows, size))


def arrow_rows(
    path: Path, kind: str, place: Mapping[str, Any], columns: set[str] | None, note: Callable[[str], None]
) -> Rows:
    """Yield the rows of a file, with a reference {file, row, column} in place of each picture.

    Args:
        path: the file.
        kind: its kind, as `file_kinds.py` calls it.
        place: the first fields of the references: `file`, and `inside` for a file in a folder; see `read_cell`.
        columns: the columns to read; None reads all.
        note: called with a note about values that are not read as written (`Scratch.note`).

    Raises:
        SourceError: the file is not of that kind; also raised while iterating.
    """
    table = open_arrow(path, kind)
    features = huggingface_features(table.schema)
    fields = [field for field in table.schema if columns is None or field.name in columns]
    pictures = {field.name for field in fields if is_picture_type(field.type)}
    names = list(dict.fromkeys(field.name for field in fields if field.name not in pictures))
    number = 0
    try:
        gaps = _whole_with_gaps(table, names)
        for name in gaps:
            note(f"{path.name}: column {name!r} holds whole numbers with gaps, stored as 3.0: they become 3 in text")
        converts = {
            field.name: convert
            for field in fields
            if field.name not in pictures and (convert := converter(field.type, features.get(field.name)))
        } | dict.fromkeys(gaps, to_int)
        inner = [name for name in names if holds_bytes(table.schema.field(name).type)]
        for group in range(len(table.groups)):
            for batch in table.batches(group, names, _BATCH if inner else 1024):
                for row in _decoded(batch, converts):
                    if isinstance(row, dict):
                        at = {**place, "row": number}
                        row |= {name: _with_references(row[name], {**at, "column": name}, []) for name in inner}
                        row |= {name: {**at, "column": name} for name in pictures}
                    yield row
                    number += 1
    except _UNREADABLE as error:
        if isinstance(error, BadSample | SourceError):
            raise
        raise SourceError(f"{path} cannot be read from row {number} on ({_one_line(error)})") from None


def arrow_columns(path: Path, kind: str) -> tuple[list[str], set[str], set[str]]:
    """Return the names of all columns, of picture columns (read as references), and of string columns.

    Raises:
        SourceError: the file cannot be read.
    """
    schema = open_arrow(path, kind).schema
    return (
        list(schema.names),
        {field.name for field in schema if is_picture_type(field.type)},
        {field.name for field in schema if is_string_type(field.type)},
    )


def _with_references(value: Any, place: dict[str, Any], at: list[Any]) -> Any:
    """Replace the bytes in a value by references; `at` is the path to the value inside its cell."""
    if isinstance(value, bytes):
        return {**place, "at": at}
    if isinstance(value, list):
        return [_with_references(item, place, [*at, number]) for number, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _with_references(item, place, [*at, name]) for name, item in value.items()}
    return value


def _whole_with_gaps(table: ArrowTable, names: list[str]) -> list[str]:
    """List the float columns that hold only whole numbers and gaps: how pandas stores integers with missing values."""
    floats = [name for name in names if pa.types.is_float64(table.schema.field(name).type)]
    gaps: set[str] = set()
    known_of: set[str] = set()
    for group in range(len(table.groups)):
        for batch in table.batches(group, floats, 1 << 16) if floats else ():
            for name in list(floats):
                column = batch.column(batch.schema.get_field_index(name))
                known = compute.drop_null(compute.if_else(compute.is_nan(column), None, column))
                if len(known) < len(column):
                    gaps.add(name)
                if len(known):
                    known_of.add(name)
                whole = compute.and_(
                    compute.equal(known, compute.round(known)), compute.less(compute.abs(known), 2.0**53)
                )
                if not compute.all(whole, min_count=0).as_py():
                    floats.remove(name)
    return [name for name in floats if name in gaps & known_of]


def _decoded(batch: Any, converts: Mapping[str, Convert]) -> Rows:
    """Yield the rows of a batch. A cell that Python cannot hold (not UTF-8, a date after 9999) costs only its row."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for number in range(batch.num_rows):
                yield from _decoded(batch.slice(number, 1), converts)
            return
        what = f"is not UTF-8: {error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else None
        yield BadSample("bad_field", f"a cell {what or f'cannot be read ({_one_line(error)})'}")
        return
    for row in rows:
        try:
            yield row | {name: convert(row[name]) for name, convert in converts.items()}
        except BadSample as bad:
            yield bad


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class ColumnCells:
    """The cells of a column by row number. Reading forward is cheap; reading far backward restarts the part.

    Threads ask for rows a little out of order, so the batch before the last one is kept as well.
    """

    def __init__(self, path: Path, kind: str, column: str):
        self._table = open_arrow(path, kind)
        self._table.schema.field(column)  # raises KeyError if there is none
        self._column = column
        self._starts = [0, *itertools.accumulate(self._table.groups)]
        self._batches: Iterator[Any] = iter(())
        self._group = -1
        self._next = 0  # the row after those that are read
        self._kept: deque[tuple[int, Any]] = deque(maxlen=2)  # first row and cells of batches
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> Any:
        with self._lock:
            if not 0 <= row < self._starts[-1]:
                raise IndexError(row)
            while True:
                for first, cells in self._kept:
                    if first <= row < first + len(cells):
                        return cells[row - first].as_py()
                self._read_on(row)

    def _read_on(self, row: int) -> None:
        """Read the next batch, from the start of the row's part if reading is not yet there or already beyond it."""
        group = next(number for number, start in enumerate(self._starts[1:]) if row < start)
        if group != self._group or row < self._next:
            self._group, self._next = group, self._starts[group]
            self._batches = self._table.batches(group, [self._column], _BATCH)
        cells = next(self._batches).column(0)  # if this raises, the rows before it stay readable
        self._kept.append((self._next, cells))
        self._next += len(cells)
