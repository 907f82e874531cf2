"""Tables of your own: CSV, TSV, JSON lines or a JSON list (also .gz), and Parquet; a row is a sample.

    --columns image=path instruction=question response=answer id=uid meta.site=place

says which column is which field; without it, columns with the usual names are taken, and named in `meta["columns"]`.
Only `response` is needed, and one of `image` and `instruction`:

- response: what the rewriter gets. Of a question, a list of answers means the most frequent; of an image, a list means
  several captions. A list may be written in JSON in a cell.
- instruction: with a mark `<image>` for each image, or with none, and then the marks go before it. Where there is no
  such column the task's own wordings are used (`instructions.py`).
- image: a path in the image folder, or an address (fetched only where `download_from` names its host); several in a
  JSON list or, with `--extra image_separator=X`, in one text. In Parquet also the file's bytes, or {bytes, path} as
  Hugging Face's data sets have them, or a list of either.
- task: one of `sample.TASKS`, from a column or from `--extra task=NAME` for all rows. Else vqa where there is an
  instruction (vqa_rationale where the row has a `rationale`), captioning where there is none, text without images.
- id: else the file's name and the row's number. split, rationale (of questions), and `meta.NAME` to keep a column.

Rows in: the rows of the files, blank lines not counted. A line of a CSV that is no row costs only itself: reading goes
on at the next line, so that a quotation mark that is never closed does not swallow the file.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, TASKS, BadSample, Image, Sample, Turn
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions, choice
from polite_flamingo.sources.instructions import IMAGES_SHOWN, INSTRUCTIONS, ask, instruction
from polite_flamingo.sources.parquet import Rows, cell_at, is_place, parquet_rows
from polite_flamingo.sources.reading import (
    MAX_IMAGE_BYTES,
    SourceError,
    checked,
    entry,
    file_name,
    identity,
    kind_of,
    verbatim,
)
from polite_flamingo.sources.responses import answer_response, captions_and_boxes, change_response
from polite_flamingo.sources.shelf import Shelf
from polite_flamingo.sources.streaming import MAX_RECORD, json_lines, json_records, open_text
from polite_flamingo.sources.vqa import majority

FIELDS = ("response", "instruction", "image", "task", "id", "split", "rationale")
OBVIOUS = {
    "response": {"response", "answer", "answers", "caption", "captions", "output"},
    "instruction": {"instruction", "question", "prompt"},
    "image": {"image", "images", "image_path", "img", "img_path", "file_name"},
    "id": {"id", "uid"},
    "split": {"split"},
    "rationale": {"rationale", "explanation"},
}
"""Names of columns that need no mapping, in lower case."""

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "\\t": "\t"}

_HEAD = 100
"""Rows of a JSON file that are looked at for the names of its columns; not every row has every column."""

_DEPTH = 20


@dataclass(frozen=True)
class _Table:
    """The names of the columns, and the rows: of these columns at least, and of no others if that saves reading."""

    names: list[str]
    rows: Callable[[set[str]], Rows]


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The rows as {id, field: cell, meta: {name: cell}}."""
    task = options.extra.get("task")
    if task is not None and task not in TASKS:
        raise SourceError(f"--extra task={task[:40]!r} is none of {', '.join(TASKS)}")
    stems = set()
    for file, path in enumerate(options.annotations):
        table = _open(path, file, options)
        columns = _columns(path, table.names, options.columns)
        guessed = {} if columns.items() <= options.columns.items() else {"columns": columns}
        place = Place(file=file_name(path), part="rows")
        stem = place.file.removesuffix(".gz").rpartition(".")[0]
        if stem in stems and "id" not in columns:
            raise SourceError(f"two files are called {stem!r}, and so would be their rows: map a column to id")
        stems.add(stem)
        for number, row in enumerate(table.rows(set(columns.values()))):
            yield place, number, _record(row, columns, f"{stem}-{number}", guessed)


def _record(
    row: Any, columns: Mapping[str, str], default_id: str, guessed: dict[str, Any]
) -> dict[str, Any] | BadSample:
    try:
        if isinstance(row, BadSample):
            return row
        cells = {field: _plain(entry(row).get(column), column) for field, column in columns.items()}
    except BadSample as bad:
        return bad
    meta = {field[5:]: cell for field, cell in cells.items() if field.startswith("meta.")}
    kept = {field: cell for field, cell in cells.items() if field in FIELDS}
    return {"id": default_id} | kept | {"meta": meta | guessed}


def _plain(value: Any, what: str, depth: int = 0) -> Any:
    """A value as JSON types; dates and the like become text, NaN and infinity (pandas' "missing") become null."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(item, what, depth + 1) for item in value]
    if depth < _DEPTH and isinstance(value, dict):
        return {_plain(str(name), what): _plain(item, what, depth + 1) for name, item in value.items()}
    if isinstance(value, bytes | list | tuple | dict):
        raise BadSample("bad_field", f"column {what[:60]!r} holds {kind_of(value)}, which is no text")
    found = verbatim(str(value), f"column {what[:60]!r}")
    if "\0" in found:
        raise BadSample("bad_field", f"column {what[:60]!r} holds a NUL byte")
    return found


def _columns(path: Path, names: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Field -> column, as given or, where no field is, as the columns' own names suggest."""
    there = f"; the columns are: {', '.join(map(repr, names))[:400]}"
    for field in given:
        if field not in FIELDS and not (field.startswith("meta.") and field not in ("meta.", "meta.source")):
            raise SourceError(f"--columns knows no {field[:40]!r}; it knows: {', '.join(FIELDS)} and meta.NAME")
    columns = dict(given)
    if all(field.startswith("meta.") for field in given):
        for field, usual in OBVIOUS.items():
            found = [name for name in names if name.lower() in usual]
            if len(found) > 1:
                which = " and ".join(map(repr, found))[:120]
                raise SourceError(f"{path}: {which} could both be the {field}: say which with --columns {field}=NAME …")
            if found:
                columns[field] = found[0]
    for column in columns.values():
        if names.count(column) != 1:
            what = "several columns" if column in names else "no column"
            raise SourceError(f"{path} has {what} {column[:60]!r}{there}")
    if "response" not in columns or not {"image", "instruction"} & set(columns):
        needed = "--columns response=NAME and image=NAME, instruction=NAME or both"
        raise SourceError(f"{path}: say which columns are which: {needed}{there}")
    return columns


def _open(path: Path, file: int, options: SourceOptions) -> _Table:
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return _Table(*parquet_rows(path, file))
    if kind in ("jsonl", "ndjson", "json"):
        rows = json_records(path) if kind == "json" else json_lines(path)
        head = list(itertools.islice(rows, _HEAD))
        keys = dict.fromkeys(name for row in head if isinstance(row, dict) for name in row)
        return _Table(list(keys), lambda columns: itertools.chain(head, rows))
    if kind not in ("csv", "tsv", "tab"):
        raise SourceError(f"{path} is no .csv, .tsv, .jsonl, .json (these also with .gz) or .parquet file")
    delimiter = options.extra.get("delimiter") or (_sniffed(path) if kind == "csv" else "tab")
    delimiter = DELIMITERS.get(delimiter, delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise SourceError(f"--extra delimiter={delimiter[:20]!r} must be one character, or: comma, tab, semicolon")
    quoting = csv.QUOTE_NONE if choice(options, "quoting", "usual", "none") == "none" else csv.QUOTE_MINIMAL
    cells = delimited(path, delimiter, quoting)
    header = next(cells, None)
    if header is None:
        raise SourceError(f"{path} is empty: its first line must name the columns")
    if isinstance(header, BadSample):
        raise SourceError(f"{path}: the first line must name the columns, and is none ({header.detail})")
    names = [name.strip() for name in header]
    return _Table(
        names,
        lambda columns: (row if isinstance(row, BadSample) else dict(zip(names, row, strict=True)) for row in cells),
    )


def _sniffed(path: Path) -> str:
    """The delimiter that cuts the first line into the most cells; a comma where none does."""
    with open_text(path) as file:
        line = file.readline(MAX_RECORD)
    counts = {}
    for delimiter in DELIMITERS.values():
        try:
            counts[delimiter] = max(map(len, csv.reader([line], delimiter=delimiter)), default=0)
        except csv.Error:
            counts[delimiter] = 0
    return max(counts, key=counts.__getitem__)


def delimited(path: Path, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL) -> Iterator[list[str] | BadSample]:
    """The rows of a text file of cells, the header first; the number of its cells is that of every other row.

    Cells are as `csv` reads them: `csv.writer`'s come back exactly. What is no row is a `BadSample` that names its line
    and costs that line alone, even where a quotation mark seems to open a cell of many lines.

    Raises:
        SourceError: also while iterating.
    """
    number = width = 0
    ahead: deque[str] = deque()
    taken: list[str] = []
    with open_text(path) as file:

        def lines() -> Iterator[str]:
            while line := ahead.popleft() if ahead else file.readline(MAX_RECORD):
                if len(line) == MAX_RECORD:
                    raise SourceError(f"{path} has a line of more than {MAX_RECORD >> 20} MB; is it the right file?")
                taken.append(line)
                yield line

        bad: BadSample | None = None
        reader = None
        while True:
            if reader is None or bad is not None:  # a reader that came to the end of the file reads no more
                reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
            taken.clear()
            bad = None
            cells: list[str] = []
            try:
                cells = next(reader, [])
            except csv.Error as error:
                long = len(taken) == 1 and "limit" in str(error)
                bad = BadSample("text_too_long" if long else "bad_field", f"line {number + 1} is no row: {error}")
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


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """One row, one sample."""
    rationale = _text(record.get("rationale"), "rationale")
    images = _images(record.get("image"), context)
    task = _text(record.get("task"), "task") or context.options.extra.get("task") or _task(record, rationale)
    if not images and task not in ("text", "dialogue"):
        raise BadSample("missing_image", f"the row has no image, and its task is {task[:40]}")
    if task == "text" and images:
        raise BadSample("bad_field", "the task is text, and the row has an image")
    if "instruction" in record:
        asked = _text(record["instruction"], "instruction")
        if not asked:
            raise BadSample("bad_field", "the instruction is empty")
        if IMAGE_MARK not in asked:
            asked = ask(asked, images=len(images))
    elif task not in INSTRUCTIONS:
        raise BadSample("bad_field", f"a row of task {task[:40]!r} needs an instruction")
    elif len(images) != IMAGES_SHOWN[task]:
        raise BadSample(
            "bad_field", f"{len(images)} images, and the instructions of {task} are on {IMAGES_SHOWN[task]}"
        )
    else:
        asked = instruction(task, key)
    return Sample(
        key=key,
        dataset="table",
        task=task,  # type: ignore[arg-type]  # checked by `validate`
        turns=(Turn(instruction=asked, response=_worded(task, record.get("response"), rationale)),),
        images=tuple(images),
        meta=_plain(entry(record.get("meta", {})), "meta"),
    )


def _task(record: dict[str, Any], rationale: str) -> str:
    if "image" not in record:
        return "text"
    if "instruction" not in record:
        return "captioning"
    return "vqa_rationale" if rationale else "vqa"


def _worded(task: str, response: Any, rationale: str) -> str:
    """The response as `responses.py` words it for the task."""
    if response is None:
        raise BadSample("missing_annotation", "the row has no response")
    given = _listed(response) if task not in ("text", "dialogue", "classification") else response
    if task in ("vqa", "vqa_rationale"):
        if isinstance(given, list):
            given, _ = majority([item if isinstance(item, dict) else _text(item, "response") for item in given])
        if not (answer := _text(given, "response")):
            raise BadSample("empty_response", "the answer is empty")
        return answer_response(answer, rationale)
    texts = [_text(item, "response") for item in (given if isinstance(given, list) else [given])]
    return change_response(texts) if task == "change_captioning" else captions_and_boxes(texts)


def _listed(value: Any) -> Any:
    """A list written in a text as JSON, as that list; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if all(isinstance(item, str | dict) for item in found) else value


def _text(value: Any, name: str) -> str:
    """A cell as text, stripped but else as it is: the lines of an answer are its own."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadSample("bad_field", f"the {name} must be text or a number, not {kind_of(value)}")
    found = _plain(value, name)
    return "" if found is None else str(found).strip()


def _images(value: Any, context: Context) -> list[Image]:
    if is_place(value):
        value = cell_at(value, context.options)
    value = _listed(value)
    separator = context.options.extra.get("image_separator")
    if isinstance(value, str):
        value = value.split(separator) if separator else [value]
    elif not isinstance(value, list):
        value = [] if value is None else [value]
    return [_image(item, context) for item in value if item is not None and item != ""]


def _image(value: Any, context: Context) -> Image:
    """From a path, bytes, or {bytes, path}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or value.get("bytes")
    if isinstance(value, bytes):
        if len(value) > MAX_IMAGE_BYTES:
            raise BadSample("image_too_large", f"{len(value)} bytes, at most {MAX_IMAGE_BYTES} are read")
        return checked(value, "the image in the row")[0]
    if not isinstance(value, str) or not value.strip():
        raise BadSample("bad_field", f"an image must be a path or, in Parquet, bytes, not {kind_of(value)}")
    name, root = _text(value, "image"), context.images.root
    if root is not None and PurePosixPath(name).is_relative_to(root.absolute()):
        name = str(PurePosixPath(name).relative_to(root.absolute()))
    if name.startswith(("http://", "https://")):
        return context.local_or_downloaded(name, name)
    return context.images.read(name)[0]


SOURCE = Source(
    name="table",
    title="your own table",
    use="own data",
    task="vqa",
    category="VQA",
    files="a .csv, .tsv, .jsonl or .json file (each also .gz) or .parquet; the images that its cells name, or hold",
    published="your own",
    licence="your own",
    evidence="own format",
    records=records,
    identify=lambda record: identity(entry(record), "id"),
    build=build,
    split_in_record=True,
    images="optional",
    extra={
        "task": f"the task of all rows: {', '.join(TASKS)}",
        "delimiter": "what separates the cells of a .csv or .tsv file: comma, tab, semicolon or a character",
        "quoting": "none, for a .csv or .tsv file in which quotation marks mean nothing",
        "image_separator": "what separates the paths of several images in a cell",
    },
    columns=(*FIELDS, "meta.NAME"),
)
