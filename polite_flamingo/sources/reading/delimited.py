"""Delimited text: CSV, TSV and the like, whose first line names the columns.

A bad line costs only itself: reading goes on at the next line, so an unclosed quotation mark does not swallow the file.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.streaming import MAX_RECORD, open_text

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}
"""The delimiters that are detected, by name."""

_NAMES = DELIMITERS | {"\\t": "\t", "pipe": "|", "space": " "}
_SEP = re.compile(r'\ufeff?"?sep=(.)"?\r?\n?', re.IGNORECASE)
"""The line that tells Excel the delimiter."""

_HEAD = 1 << 16
"""Characters read to detect the delimiter."""

MAX_LINES = 4 << 20
"""Maximum characters of a row of several lines, without the longest: more means an unclosed quotation mark."""


def delimiter_of(path: Path, given: str = "") -> tuple[str, bool]:
    """Return the delimiter of a file, and whether its first line only names it (`sep=;`).

    Args:
        path: the file.
        given: a character, or the name of one; "" detects it from the file.

    Raises:
        SourceError: `given` is not a delimiter.
    """
    with open_text(path) as file:
        text = file.read(_HEAD)
    named = _SEP.fullmatch(text.splitlines(keepends=True)[0]) if text else None
    delimiter = _NAMES.get(given, given) or (named[1] if named else _sniffed(text, path.name.lower()))
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        allowed = ", ".join(name for name in _NAMES if name.isalpha())
        raise SourceError(f"--extra delimiter={given[:20]!r} must be one character, or: {allowed}")
    return delimiter, bool(named)


def looks_delimited(text: str) -> bool:
    """Whether the start of a file looks like a table: several lines, all with the same number of cells, above one."""
    if _SEP.match(text.split("\n", 1)[0]):
        return True
    return any(
        len(widths) > 1 and widths[0] > 1 and set(widths) == {widths[0]}
        for widths in (_widths(text, delimiter) for delimiter in DELIMITERS.values())
    )


def _sniffed(text: str, name: str) -> str:
    """Guess the delimiter: with it, most lines have as many cells as the first line, and that line has the most.

    On a tie it is the tab in a .tsv file, else the comma.
    """

    def score(delimiter: str) -> tuple[bool, float, bool, int]:
        widths = _widths(text, delimiter)
        first = widths[0] if widths else 0
        agreeing = sum(width == first for width in widths) / max(len(widths), 1)
        return first > 1, round(agreeing, 1), delimiter == "\t" and ".tsv" in name, first

    return max(DELIMITERS.values(), key=score)


def _widths(text: str, delimiter: str) -> list[int]:
    """Count the cells in each row. The last row may be cut off, so it counts only if it is the only one."""
    widths = []
    with suppress(csv.Error):  # count the rows before the error
        widths += [len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    return widths[:-1] if len(text) == _HEAD and len(widths) > 1 else widths


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells as long as a line. The limit of `csv` is global, so it is raised only while a row is read."""
    before = csv.field_size_limit(MAX_RECORD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def delimited(
    path: Path, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL, *, skip: int = 0
) -> Iterator[list[str] | BadSample]:
    """Yield the rows of a delimited file, the header first; every row must have as many cells as the header.

    Cells are as `csv` reads them, so what `csv.writer` wrote comes back exactly. A bad row is a `BadSample` that names
    its line and costs only that line, even if a quotation mark seems to open a cell of many lines.

    Args:
        path: the file.
        delimiter: one character.
        quoting: a constant of the `csv` module.
        skip: lines before the header.

    Raises:
        SourceError: the file cannot be read; also raised while iterating.
    """
    number = width = total = longest = 0
    ahead: deque[str] = deque()
    taken: list[str] = []
    with open_text(path) as file:

        def lines() -> Iterator[str]:
            while line := ahead.popleft() if ahead else file.readline(MAX_RECORD):
                if len(line) == MAX_RECORD:
                    raise SourceError(f"{path} has a line of more than {MAX_RECORD >> 20} MB; is it the right file?")
                nonlocal total, longest
                taken.append(line)
                total, longest = total + len(line), max(longest, len(line))
                if total - longest > MAX_LINES:
                    raise csv.Error("a quotation mark is not closed")
                yield line

        for _ in range(skip):
            number += bool(file.readline(MAX_RECORD))
        bad: BadSample | None = None
        reader = None
        while True:
            if reader is None or bad is not None:  # a reader that has reached the end of the file reads no more
                reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
            taken.clear()
            total = longest = 0
            bad = None
            cells: list[str] = []
            try:
                with _long_cells():
                    cells = next(reader, [])
            except csv.Error as error:
                bad = BadSample("bad_field", f"line {number + 1} is not a row: {error}")
            if not taken:
                return
            blank = not cells or (len(cells) == 1 < width and not cells[0].strip())
            if bad is None and not blank and len(cells) != (width := width or len(cells)):
                bad = BadSample("bad_field", f"line {number + 1} has {len(cells)} cells, the first line {width}")
            if bad is not None:
                ahead.extendleft(reversed(taken[1:]))
                number += 1
                yield bad
                continue
            number += len(taken)
            if not blank:
                yield cells
