"""Annotation files of any kind as records: the one way for every source that does not have files of its own form.

    annotation_files   what the user names -> files; a folder stands for the files in it, all of one kind
    rows_of            a file -> its records, whatever its kind (`kinds.py`)
    file_records       both, as a source's `records`

A cell that holds a picture's bytes (Parquet, Arrow) stands as its place, {file, row, column}; `cell_at` reads it. In
Hugging Face's folders (a saved dataset, a clone of the hub's) the splits are those that the files' names say.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.arrow import Cells, Rows, arrow_rows
from polite_flamingo.sources.reading.cells import Decoder, plain
from polite_flamingo.sources.reading.checks import SourceError, file_name
from polite_flamingo.sources.reading.delimited import delimited, delimiter_of
from polite_flamingo.sources.reading.kinds import Kind, kind_of_file
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.sources.reading.streaming import elements, json_lines, members, only_value
from polite_flamingo.sources.reading.unpacking import unpacked_name
from polite_flamingo.sources.records.source import Place, SourceOptions
from polite_flamingo.storage.discovery import own_output
from polite_flamingo.storage.visibility import out_of_reach, refuse_broken_way

WRAPPERS = ("data", "rows", "records", "examples", "samples", "items", "instances", "annotations", "train")
"""Names under which an object holds the list of the records."""

NOTHING_READ = 100
"""Rows that fail at the beginning of a file, one after another, from which on it is not the file it is taken for."""

_FAMILY: dict[Kind, str] = {
    "JSON list": "JSON", "JSON lines": "JSON", "JSON object": "JSON",
    "delimited text": "CSV", "Parquet": "Parquet", "Arrow file": "Arrow", "Arrow stream": "Arrow",
}  # fmt: skip
_NOT_RECORDS = re.compile(
    r"(readme|license|licence|notice|citation|changelog)(\..*)?|.*\.(md|rst|py|lock|crc|yaml|yml)"
    r"|(dataset_infos?|state|dataset_dict)\.json|[._].*",
    re.IGNORECASE,
)
"""Names of files that lie beside a dataset."""

_OF_ANNOTATIONS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_PICTURES = {f".{extension}" for extension in EXTENSIONS} | {".svg"}
_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-\w+)?")


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """One file of annotations.

    Attributes:
        path: where it lies.
        number: that of `SourceOptions.annotations` which it is, or lies in.
        inside: its path in that folder, "" where it was named itself.
        kind: see `kinds.py`.
        split: as its name or its folder's says, where it lies in a folder; else "".
    """

    path: Path
    number: int
    inside: str
    kind: Kind
    split: str = ""

    @property
    def name(self) -> str:
        """What its records' places call it."""
        return os.fsencode(self.inside).decode("utf-8", "replace") if self.inside else file_name(self.path)

    @property
    def place(self) -> dict[str, Any]:
        """What the places of its cells begin with."""
        return {"file": self.number} | ({"inside": self.inside} if self.inside else {})


def annotation_files(options: SourceOptions, shelf: Shelf) -> Iterator[AnnotationFile]:
    """The files that the user names, folders as the files in them.

    Raises:
        SourceError: one is of a kind that is not read, or a folder holds none, or some of several kinds.
    """
    for number, path in enumerate(options.annotations):
        if path.is_dir():
            yield from _in_folder(path, number, shelf)
        else:
            yield AnnotationFile(path=path, number=number, inside="", kind=kind_of_file(path))


def _in_folder(folder: Path, number: int, shelf: Shelf) -> Iterator[AnnotationFile]:
    found: list[AnnotationFile] = []
    passed: Counter[str] = Counter()
    dictionary = (folder / "dataset_dict.json").is_file()
    for path in _walk(folder):
        inside = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _PICTURES:
            passed["pictures"] += 1
        elif _NOT_RECORDS.fullmatch(path.name):
            passed[path.name if path.name.startswith((".", "_")) else "files that describe a dataset"] += 1
        else:
            try:
                kind = kind_of_file(path)
            except SourceError as error:
                if unpacked_name(path.name).lower().endswith(_OF_ANNOTATIONS):
                    raise  # it should be one, and is something else: not downloaded, or damaged
                passed[str(error).removeprefix(f"{path} is ").split(":")[0].split(", not annotations")[0]] += 1
                continue
            found.append(
                AnnotationFile(path=path, number=number, inside=inside, kind=kind, split=_split(inside, dictionary))
            )
    described = [file for file in found if Path(file.inside).stem == "metadata"]
    empty = [file.name for file in found if file.kind == "empty"]
    found = described or [file for file in found if file.kind != "empty"]
    families = Counter(_FAMILY.get(file.kind, "empty") for file in found)
    if not found:
        there = f" ({', '.join(passed)})" if passed else ""
        raise SourceError(
            f"{folder} holds no annotation file that can be read{there}: name the file, or another folder"
        )
    if len(families) > 1:
        kinds = ", ".join(f"{count} {family}" for family, count in families.items())
        first = {_FAMILY.get(file.kind, "empty"): file.inside for file in reversed(found)}
        taken = ", ".join(f"{name} is taken for {family}" for family, name in first.items())
        raise SourceError(
            f"{folder} holds annotation files of several kinds ({kinds}): name those to read, one by one ({taken})"
        )
    for name in empty:
        shelf.note(f"{name} is empty")
    for what, count in passed.items():
        shelf.note(f"{folder}: passed over, not annotations: {what}", count)
    for split, count in Counter(file.split for file in found).items():
        if split:
            shelf.note(f"{folder}: files of the split {split!r}, by their names", count)
    yield from found


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder by name, through links, each folder once; not what a run of this project wrote."""
    seen = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        written = own_output(at)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in written)
        yield from (Path(at, name) for name in sorted(names) if name not in written)


def _split(inside: str, dictionary: bool) -> str:
    """The split that a path in a folder says, "" where it says none."""
    *folders, name = inside.split("/")
    if dictionary and folders:
        return folders[0]
    stem = name.split(".")[0]
    if (shard := _SHARD.fullmatch(stem)) and shard[1].lower() not in ("data", "part", "shard"):
        return shard[1].rpartition("/")[2]
    for part in (stem, *reversed(folders)):
        for word in re.split(r"[-_. ]", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def rows_of(
    file: AnnotationFile,
    shelf: Shelf,
    columns: set[str] | None = None,
    *,
    as_written: bool = False,
) -> Iterator[Any]:
    """The records of a file: JSON values, or a `BadSample` in the place of one that cannot be read.

    Args:
        file: of any kind. Of delimited text the cells that hold a JSON list or object are that.
        shelf: for what is guessed.
        columns: of Parquet and Arrow, those to read; None reads all.
        as_written: numbers of JSON are `cells.Number`, which know how they are written.

    Raises:
        SourceError: the file as a whole cannot be read, or its first `NOTHING_READ` rows all fail; also later on.
    """
    if file.kind == "empty":
        shelf.note(f"{file.name} is empty")
        return
    if file.kind in ("Parquet", "Arrow file", "Arrow stream"):
        found: Iterator[Any] = arrow_rows(file.path, file.kind, file.place, columns, shelf.note)
    elif file.kind == "delimited text":
        found = _delimited_rows(file.path)
    else:
        found = json_rows(file, shelf, as_written=as_written)
    yield from no_nonsense(file.path, found)


def no_nonsense(path: Path, rows: Iterator[Any]) -> Iterator[Any]:
    """Rows as they are. Raises `SourceError` where the first `NOTHING_READ` all fail: it is another file."""
    first = list(islice(rows, NOTHING_READ))
    if len(first) == NOTHING_READ and all(isinstance(row, BadSample) for row in first):
        raise SourceError(
            f"{path}: none of the first {NOTHING_READ} lines is a record ({first[0].detail}); is it the right file?"
        )
    yield from chain(first, rows)


def json_rows(file: AnnotationFile, shelf: Shelf, *, as_written: bool = False) -> Iterator[Any]:
    """The records of a file of JSON."""
    decoder = Decoder(as_written=as_written)
    if file.kind == "JSON object":
        found, what = _of_object(file.path, decoder)
        if what:
            shelf.note(f"{file.name} is one object: {what}")
    else:
        found = (elements if file.kind == "JSON list" else json_lines)(file.path, decoder)
    for value in found:
        yield decoder.checked(value)


def _of_object(path: Path, decoder: Decoder) -> tuple[Iterator[Any], str]:
    """The records of an object, and what was taken for them; "" where it is one record itself."""
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
    """The record in a row of the dataset viewer's answers."""
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
        yield row if isinstance(row, BadSample) else dict(zip(header, map(_cell, row), strict=True))


def _cell(text: str) -> Any:
    """A cell as the list or the object that it holds as JSON; any other as it is."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def file_records(options: SourceOptions, shelf: Shelf, part: str) -> Iterator[tuple[Place, int, Any]]:
    """The records of all files with their places, as a source's `records`; `part` names them in a place.

    Raises:
        SourceError: see `annotation_files` and `rows_of`.
    """
    for file in annotation_files(options, shelf):
        place = Place(file=file.name, part=part, split=file.split)
        for number, row in enumerate(rows_of(file, shelf)):
            yield place, number, _checked(row) if file.kind in ("Parquet", "Arrow file", "Arrow stream") else row


def _checked(row: Any) -> Any:
    try:
        return row if isinstance(row, BadSample) else plain(row, "the row")
    except BadSample as bad:
        return bad


@functools.lru_cache(maxsize=4)
def _cells(path: Path, column: str, changed: int) -> Cells:
    """`changed` is when the file was: so that another file is another entry."""
    return Cells(path, kind_of_file(path), column)


def is_place(value: Any) -> bool:
    """Whether a value is the place of a cell, or of bytes inside one."""
    return isinstance(value, dict) and {"file", "row", "column"} <= value.keys() <= {
        "file",
        "row",
        "column",
        "inside",
        "at",
    }


def cell_at(value: dict[str, Any], options: SourceOptions) -> Any:
    """The cell that `value` tells the place of: {file, row, column, inside a folder, at a path inside the cell}.

    Raises:
        BadSample: `missing_image` where it cannot be read.
        OutOfReach: the file that was read before is not there on this machine, or its mount has gone away.
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
        found = _cells(path, column, path.stat().st_mtime_ns)[row]
        for step in value.get("at", ()):
            found = found[step]
        return found
    except FileNotFoundError as error:
        raise out_of_reach(error.filename or str(file), error) from None
    # The place may be junk (TypeError, LookupError) or lie behind the end (StopIteration); the rest is what pyarrow
    # raises on a damaged or unknown file: its ArrowInvalid is a ValueError, ArrowNotImplementedError its namesake.
    except (TypeError, LookupError, StopIteration, OSError, ValueError, NotImplementedError) as error:
        refuse_broken_way(str(file), error)
        detail = " ".join(str(error).split())[:200]
        raise BadSample("missing_image", f"the image cannot be read from its row: {detail}") from None
