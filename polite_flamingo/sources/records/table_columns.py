"""Maps the columns of a table to the fields of a sample: as the user says, or as the column names suggest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.extra_fields import changes_meaning
from polite_flamingo.sources.records.source import SourceOptions

FIELDS = ("response", "instruction", "input", "image", "task", "id", "split", "rationale")
USUAL_NAMES = {
    "response": {"response", "answer", "answers", "caption", "captions", "output"},
    "instruction": {"instruction", "question", "prompt"},
    "input": {"input"},
    "image": {"image", "images", "image_path", "img", "img_path", "file_name"},
    "id": {"id", "uid"},
    "split": {"split"},
    "rationale": {"rationale", "explanation"},
}
"""Names of columns that need no mapping, capitals, blanks and hyphens aside. A lone `input` is the instruction."""


@dataclass(frozen=True)
class Table:
    """The names of the columns, the rows, and which columns hold bytes.

    Rows have at least the columns that are asked for, and no others if that saves reading; `strings` are then the
    columns that are cheap to read. `remedy` is added to errors about the columns.
    """

    names: list[str]
    rows: Callable[[set[str]], Iterator[Any]]
    pictures: frozenset[str] = frozenset()
    strings: frozenset[str] = frozenset()
    remedy: str = ""


def columns_of(path: Path, table: Table, options: SourceOptions) -> dict[str, str]:
    """Map fields to columns, as `options.columns` says or, if it says only `meta`, as the columns' own names suggest.

    Raises:
        SourceError: a field or a column does not exist, a name fits several fields, there are pictures (`--images`)
            and no column is taken for them, or bytes are to be kept as `meta`.
    """
    given, names = options.columns, table.names
    there = f"; the columns are: {', '.join(map(repr, names))[:400]}{table.remedy}"
    for field in given:
        if field not in FIELDS and not (field.startswith("meta.") and field not in ("meta.", "meta.source")):
            raise SourceError(
                f"--columns has no field {field[:40]!r}; its fields are {', '.join(FIELDS)} and meta.NAME"
            )
    columns = dict(given)
    if all(field.startswith("meta.") for field in given):
        columns |= _guessed(path, names)
    for column in columns.values():
        if names.count(column) != 1:
            what = "several columns" if column in names else "no column"
            raise SourceError(f"{path} has {what} {column[:60]!r}{there}")
    if "response" not in columns and {"conversations", "messages"} & set(names):
        raise SourceError(f"{path} holds conversations: read it with --source llava, or sharegpt if without images")
    if "response" not in columns or not {"image", "instruction"} & set(columns):
        needed = "--columns response=NAME and image=NAME, instruction=NAME or both"
        raise SourceError(f"{path}: say which columns are which: {needed}{there}")
    if options.images is not None and "image" not in columns:
        remedy = f"say which one it is ({columns_argument({'image': 'NAME'} | columns)}), or leave --images out"
        raise SourceError(f"{path}: --images is given, and no column is taken for the image: {remedy}{there}")
    for field, column in columns.items():
        if field.startswith("meta.") and column in table.pictures:
            raise SourceError(f"{path}: column {column[:60]!r} holds bytes, which meta cannot keep: leave {field} out")
    return columns


def columns_argument(columns: Mapping[str, str]) -> str:
    """Write a mapping as a command line has it."""
    return " ".join(["--columns", *(f"{field}={quote(column)}" for field, column in columns.items())])


def note_columns(
    file: str, names: Sequence[str], columns: Mapping[str, str], given: Mapping[str, str], scratch: Scratch
) -> None:
    """Note what was taken for what, and what is left out; pandas' index is not a column."""
    guessed = [f"{field} = {column!r}" for field, column in columns.items() if field not in given]
    if guessed:
        scratch.note(f"{file}: columns recognised by name: {', '.join(guessed)}")
    taken = set(columns.values())
    left = [name for name in dict.fromkeys(names) if name not in taken and not name.startswith("__index_level")]
    meaningful = [name for name in left if changes_meaning(name)]
    if meaningful:
        what = "columns that may exclude a row (a bad answer, not to be learned, a video)"
        remedy = "--columns meta.NAME=COLUMN … keeps one as plain data"
        scratch.note(f"{file}: {what}: {', '.join(map(repr, meaningful))[:600]} ({remedy})")
    left = [name for name in left if name not in meaningful]
    if left:
        remedy = "--columns meta.NAME=COLUMN … keeps one"
        scratch.note(f"{file}: columns left out: {', '.join(map(repr, left))[:600]} ({remedy})")


def _guessed(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Map fields to columns by the columns' own names."""
    usual = {name: re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names}
    found = {field: [name for name in usual if usual[name] in known] for field, known in USUAL_NAMES.items()}
    columns = {field: candidates[0] for field, candidates in found.items() if candidates}
    for field, candidates in found.items():
        if len(candidates) > 1:
            which = " and ".join(map(repr, candidates))[:120]
            example = columns_argument(columns)
            raise SourceError(f"{path}: {which} could both be the {field}: say which, for example {example}")
    if "input" in columns and "instruction" not in columns:  # else it is Alpaca's: what the instruction refers to
        columns["instruction"] = columns.pop("input")
    return columns
