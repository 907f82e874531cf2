"""Parquet files: rows without the cells that hold bytes, and those cells by their place.

A shard of images in Parquet is gigabytes, and annotations are planned in one process: so the rows that are read first
have, where a cell holds bytes, a place that tells where it is. Whoever builds the sample reads it there. What the cells
mean is for `table.py` to say.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.shared import out_of_reach, refuse_broken_way
from polite_flamingo.sources.base import SourceOptions
from polite_flamingo.sources.reading import SourceError

Rows = Iterator[dict[str, Any] | BadSample]

_BATCH = 64
"""Rows decoded at once, where they hold images."""


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise SourceError(f"{path}: pyarrow, which reads Parquet, is not installed: pip install pyarrow") from None
    return pyarrow


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    """Whether a column's type is an image's: bytes, {bytes, path}, or a list of either."""
    types = arrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _holds_bytes(arrow, kind.value_type)
    if types.is_struct(kind):
        return any(_holds_bytes(arrow, field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def parquet_rows(path: Path, file: int) -> tuple[list[str], Callable[[set[str]], Rows]]:
    """The names of a file's columns, and its rows of those asked for. Where a cell has bytes stands its place.

    Args:
        path: of the file.
        file: its number, which is part of a place.

    Raises:
        SourceError: it is no Parquet; also while iterating.
    """
    arrow = _pyarrow(path)
    try:
        table = arrow.parquet.ParquetFile(path)
        schema = table.schema_arrow
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as Parquet ({_line(error)}); was it downloaded whole?") from None
    large = {field.name for field in schema if _holds_bytes(arrow, field.type)}

    def rows(columns: set[str]) -> Rows:
        number = 0
        try:
            for batch in table.iter_batches(columns=sorted(columns - large), batch_size=1024):
                for row in _decoded(batch):
                    if isinstance(row, dict):
                        row |= {name: {"file": file, "row": number, "column": name} for name in columns & large}
                    yield row
                    number += 1
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise SourceError(f"{path} cannot be read from row {number} on ({_line(error)})") from None

    return list(schema.names), rows


def _decoded(batch: Any) -> Rows:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # of one cell: the others are good
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield BadSample("bad_field", f"a cell is not UTF-8: {error.reason} at byte {error.start}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Cells:
    """The cells of a Parquet column by row number. Going on is cheap; going back begins the row group again."""

    def __init__(self, path: Path, column: str):
        self._file = _pyarrow(path).parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)  # by page
        self._column = column
        counts = (self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups))
        self._starts = [0, *itertools.accumulate(counts)]
        self._batches: Iterator[Any] = iter(())
        self._group = -1
        self._values: Any = ()
        self._first = 0
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> Any:
        with self._lock:
            if not 0 <= row < self._starts[-1]:
                raise IndexError(row)
            group = next(number for number, start in enumerate(self._starts[1:]) if row < start)
            if group != self._group or row < self._first:
                self._group, self._first, self._values = group, self._starts[group], ()
                self._batches = self._file.iter_batches(_BATCH, row_groups=[group], columns=[self._column])
            while row >= self._first + len(self._values):
                values = next(self._batches).column(0)  # what raises leaves the rows before it where they are
                self._first += len(self._values)
                self._values = values
            return self._values[row - self._first].as_py()


@functools.lru_cache(maxsize=4)
def _cells(path: Path, column: str, changed: int) -> _Cells:
    return _Cells(path, column)


def is_place(value: Any) -> bool:
    """Whether a cell is the place of another one."""
    return isinstance(value, dict) and value.keys() == {"file", "row", "column"}


def cell_at(value: dict[str, Any], options: SourceOptions) -> Any:
    """The cell of a Parquet file that `value` tells the place of. Raises BadSample where it cannot be read."""
    file, row, column = value["file"], value["row"], value["column"]
    try:
        if isinstance(row, bool) or not isinstance(row, int) or not isinstance(column, str):
            raise TypeError("no place in a file")
        path = options.annotations[file]
        return _cells(path, column, path.stat().st_mtime_ns)[row]
    except FileNotFoundError as error:  # it was read before: by another machine, or from a mount that has gone
        raise out_of_reach(error.filename or str(file), error) from None
    # The place may be junk (TypeError, IndexError) or lie behind the end (StopIteration); the rest is what pyarrow
    # raises on a damaged or unknown file: its ArrowInvalid is a ValueError, ArrowNotImplementedError its namesake.
    except (TypeError, IndexError, StopIteration, OSError, ValueError, NotImplementedError, SourceError) as error:
        refuse_broken_way(str(file), error)
        raise BadSample("missing_image", f"the image cannot be read from Parquet: {_line(error)}") from None
