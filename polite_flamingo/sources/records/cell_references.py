"""References to cells of Parquet and Arrow that hold bytes.

One process plans all records, and image bytes would fill its memory. So a record holds a reference {file, row, column}
instead, and whoever builds the sample reads the cell.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.arrow import ColumnCells
from polite_flamingo.sources.reading.file_kinds import detect_kind
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.remote_path import version_of
from polite_flamingo.storage.visibility import path_unavailable, refuse_broken_mount

_NEEDED = {"file", "row", "column"}


@functools.lru_cache(maxsize=4)
def _cells(path: Path, column: str, version: int | str) -> ColumnCells:
    """Open a column. The file's version is part of the cache key, so a changed file is read again."""
    return ColumnCells(path, detect_kind(path), column)


def is_cell_reference(value: Any) -> bool:
    """Whether a value refers to a cell, or to bytes inside one."""
    return isinstance(value, dict) and _NEEDED <= value.keys() <= _NEEDED | {"inside", "at"}


def read_cell(value: dict[str, Any], options: SourceOptions) -> Any:
    """Read the cell that `value` refers to: {file, row, column, inside a folder, at a path inside the cell}.

    Raises:
        BadSample: `missing_image` if the cell cannot be read.
        PathUnavailable: the file that was read before is missing on this machine, or its mount has gone away.
    """
    file, row, column, inside = value["file"], value["row"], value["column"], value.get("inside", "")
    try:
        if isinstance(row, bool) or not isinstance(row, int) or not isinstance(column, str):
            raise TypeError("no place in a file")
        path = options.annotations[file]
        if inside:
            path = path / inside
            if ".." in Path(inside).parts or Path(inside).is_absolute():
                raise TypeError("no place in a folder")
        found = _cells(path, column, version_of(path))[row]
        for step in value.get("at", ()):
            found = found[step]
        return found
    except FileNotFoundError as error:
        raise path_unavailable(error.filename or str(file), error) from None
    # The place may be junk (TypeError, LookupError) or lie behind the end (StopIteration); the rest is what pyarrow
    # raises on a damaged or unknown file: its ArrowInvalid is a ValueError, ArrowNotImplementedError its namesake.
    except (TypeError, LookupError, StopIteration, OSError, ValueError, NotImplementedError) as error:
        refuse_broken_mount(str(file), error)
        detail = " ".join(str(error).split())[:200]
        raise BadSample("missing_image", f"the image cannot be read from its row: {detail}") from None
