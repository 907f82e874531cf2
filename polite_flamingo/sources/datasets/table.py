"""Your own tables: CSV, TSV, JSON, Parquet or Arrow, recognised by content; each row is a sample.

    --columns image=path instruction=question response=answer id=uid meta.site=place

maps columns to fields. Without it, columns with the usual names are taken, and named in `meta["columns"]`. Which
columns are taken for which field, and which are left out, is noted. `response` is required, and `image` or
`instruction`:

- response: what the rewriter gets. A list of answers to a question means the most frequent one; a list for an image
  means several captions. A list may be written in JSON in a cell.
- instruction: with a mark `<image>` for each image; without any, the marks go before it. If there is no such column,
  the task's own wordings are used (`instructions.py`).
- input: what the instruction refers to, as in Alpaca's records; it follows the instruction after a blank line.
- image: anything that `image_references.py` reads: a path in the image folder, a URL, base64, bytes, an object with
  one of these, or a list of them; with `--extra image_separator=X`, several in one text.
- task: one of `sample.TASKS`, from a column or from `--extra task=NAME` for all rows. By default vqa if there is an
  instruction (vqa_rationale if the row has a `rationale`), captioning if there is none, text without images.
- A column that is not taken can still exclude rows (`field_meanings.py`): it may say that an answer is bad or not to be
  learned, or hold a video: `is_correct`, `train`, `video`. Taken as `meta.NAME` it is plain data.
- id: by default the file's name and the row's number. split, rationale (of questions), `meta.NAME` to keep a column.

Numbers become text as the file writes them: 1.10 of a JSON file stays 1.10. Rows in: the rows of the files, blank lines
not counted.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, TASKS, BadSample, Sample
from polite_flamingo.sources.reading.arrow import arrow_columns
from polite_flamingo.sources.reading.compression import uncompressed_name
from polite_flamingo.sources.reading.delimited import DELIMITERS, delimited, delimiter_of
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, describe_type, id_field
from polite_flamingo.sources.reading.file_kinds import ARROW
from polite_flamingo.sources.reading.json_values import json_list_in, numbers_as_written, to_json_value
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import printable_name
from polite_flamingo.sources.records.annotation_files import AnnotationFile, annotation_files
from polite_flamingo.sources.records.cell_references import is_cell_reference
from polite_flamingo.sources.records.extra_fields import (
    Findings,
    changes_meaning,
    check_single_answer,
    without_empty_cells,
)
from polite_flamingo.sources.records.file_records import file_rows, refuse_if_nothing_reads
from polite_flamingo.sources.records.image_references import needs_folder, read_images
from polite_flamingo.sources.records.instructions import IMAGES_SHOWN, INSTRUCTIONS, instruction, with_image_marks
from polite_flamingo.sources.records.media_fields import may_name_picture
from polite_flamingo.sources.records.placeholders import image_marks_in_text
from polite_flamingo.sources.records.responses import answer_response, distinct_lines
from polite_flamingo.sources.records.source import (
    Context,
    Place,
    Records,
    Source,
    SourceOptions,
    extra_choice,
    extra_task,
    one_turn,
)
from polite_flamingo.sources.records.table_columns import FIELDS, Table, columns_argument, columns_of, note_columns
from polite_flamingo.sources.records.vqa_samples import majority

_NAMED = re.compile(r"\.(csv|tsv|tab|jsonl|ndjson|json|parquet|arrow)\b")

_HEAD = 100
"""Rows of a JSON file that are searched for the names of its columns; not every row has every column."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the rows as {id, field: cell, meta: {name: cell}, beside: {name: cell of a column that may exclude it}}."""
    extra_task(options)
    stems: dict[str, str] = {}
    for file in annotation_files(options, scratch):
        table = _open(file, options, scratch)
        columns = columns_of(file.path, table, options)
        guessed = {} if columns.items() <= options.columns.items() else {"columns": columns}
        place = Place(file=file.name, part="rows", split=file.split)
        stem = uncompressed_name(place.file).rpartition(".")[0]
        if stem in stems and "id" not in columns:
            remedy = "leave one out (name the files to read), or map a column to id"
            raise SourceError(
                f"{stems[stem]} and {place.file} are both called {stem!r}, and so would be their rows: {remedy}"
            )
        stems[stem] = place.file
        note_columns(file.name, table.names, columns, options.columns, scratch)
        wants_folder = options.images is None and "image" in columns
        late: Counter[str] = Counter()
        guessed_none = "image" not in columns and "response" not in options.columns
        if guessed_none:
            _refuse_untaken_picture(file.path, dict.fromkeys(table.pictures), columns, "holds bytes")
        known = set(table.names)
        looked_at = {*table.strings, *filter(changes_meaning, known)}
        for number, row in enumerate(table.rows(looked_at.union(columns.values()))):
            if wants_folder and isinstance(row, dict) and row.get(columns["image"]):
                wants_folder = False  # of the first picture only: others may be addresses
                if needs_folder(row[columns["image"]]) and not options.download_from:
                    what = f"column {columns['image']!r} names files of pictures: pass their folder with --images"
                    without = columns_argument({field: name for field, name in columns.items() if field != "image"})
                    raise SourceError(f"{file.path}: {what}, or leave them out ({without})")
            if guessed_none and isinstance(row, dict):
                _refuse_untaken_picture(file.path, row, columns)
            if isinstance(row, dict) and file.kind.startswith("JSON"):
                late.update(row.keys() - known)
            yield place, number, _record(row, columns, f"{stem}-{number}", guessed)
        for name, times in late.items():
            if name not in columns.values():
                scratch.note(
                    f"{file.name}: left out: column {name[:60]!r}, which the first {_HEAD} rows do not have", times
                )


def _refuse_untaken_picture(path: Path, cells: Mapping[str, Any], columns: dict[str, str], why: str = "") -> None:
    """Raise `SourceError` if a cell may be, or name, a picture, and no column was taken for it."""
    for name, cell in cells.items():
        if name in columns.values() or changes_meaning(name, cell) or not (why or may_name_picture(cell)):
            continue
        what = why or f"may name a picture ({str(cell)[:60]!r})"
        remedy = (
            f"take it ({columns_argument({'image': name} | columns)}), or leave it out ({columns_argument(columns)})"
        )
        raise SourceError(f"{path}: column {name[:60]!r} {what}, and no column is taken for the image: {remedy}")


def _record(
    row: Any, columns: Mapping[str, str], default_id: str, guessed: dict[str, Any]
) -> dict[str, Any] | BadSample:
    try:
        if isinstance(row, BadSample):
            return row
        given = as_object(row)
        cells = {field: _cell(given.get(column), column, field) for field, column in columns.items()}
        beside = {
            name: to_json_value(cell, f"column {name[:60]!r}")
            for name, cell in given.items()
            if changes_meaning(name, cell) and name not in columns.values()
        }
    except BadSample as bad:
        return bad
    meta = {field[5:]: cell for field, cell in cells.items() if field.startswith("meta.")}
    kept = {field: cell for field, cell in cells.items() if field in FIELDS}
    return {"id": default_id} | kept | {"meta": meta | guessed} | ({"beside": beside} if beside else {})


def _cell(value: Any, column: str, field: str) -> Any:
    """Convert a cell to JSON types; in what becomes text, numbers stay as the file writes them."""
    what = f"column {column[:60]!r}"
    if is_cell_reference(value) and field != "image":
        raise BadSample("bad_field", f"{what} holds bytes, not text")
    return to_json_value(value if field.startswith("meta.") else numbers_as_written(value), what)


def _open(file: AnnotationFile, options: SourceOptions, scratch: Scratch) -> Table:
    name = uncompressed_name(file.path.name).lower()
    if file.kind == "delimited text" or (file.kind == "empty" and name.endswith((".csv", ".tsv", ".tab"))):
        return _delimited(file.path, options, scratch)
    if file.kind in ARROW:
        names, pictures, strings = arrow_columns(file.path, file.kind)
        return Table(names, lambda columns: file_rows(file, scratch, columns), frozenset(pictures), frozenset(strings))
    rows = file_rows(file, scratch, as_written=True)
    head = list(itertools.islice(rows, _HEAD))
    keys = dict.fromkeys(name for row in head if isinstance(row, dict) for name in row)
    if file.kind == "empty" and not _NAMED.search(file.path.name.lower()):
        raise SourceError(f"{file.path} is empty, and not a .csv, .tsv, .jsonl, .json or .parquet file")
    if head and not any(isinstance(row, dict) for row in head):
        what = head[0].detail if isinstance(head[0], BadSample) else f"the first is a {describe_type(head[0])}"
        raise SourceError(f"{file.path}: none of its first records is an object that names its columns ({what})")
    remedy = "" if head else " (the file is empty)"
    return Table(list(keys), lambda columns: itertools.chain(head, rows), remedy=remedy)


def _delimited(path: Path, options: SourceOptions, scratch: Scratch) -> Table:
    delimiter, named = delimiter_of(path, options.extra.get("delimiter", ""))
    if not options.extra.get("delimiter") and delimiter not in ",\t":
        name = next((name for name, character in DELIMITERS.items() if character == delimiter), repr(delimiter))
        scratch.note(f"{printable_name(path)}: delimiter recognised: {name}")
    quoting = csv.QUOTE_NONE if extra_choice(options, "quoting", "usual", "none") == "none" else csv.QUOTE_MINIMAL
    cells = delimited(path, delimiter, quoting, skip=int(named))
    header = next(cells, None)
    if header is None:
        raise SourceError(f"{path} is empty: its first line must name the columns")
    if isinstance(header, BadSample):
        raise SourceError(f"{path}: the first line must name the columns ({header.detail})")
    if extra_choice(options, "header", "first", "none") == "none":
        cells = itertools.chain([header], cells)
        header = [str(number) for number in range(1, len(header) + 1)]
    names = [name.strip() for name in header]
    rows = (row if isinstance(row, BadSample) else dict(zip(names, row, strict=True)) for row in cells)
    remedy = (
        "" if "header" in options.extra else " (if that is a row already: --extra header=none calls them 1, 2, 3 …)"
    )
    return Table(names, lambda columns: refuse_if_nothing_reads(path, rows), remedy=remedy)


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a row."""
    check_single_answer(without_empty_cells(as_object(record.get("beside", {})), context.options), (), Findings())
    meta = to_json_value(as_object(record.get("meta", {})), "meta")
    rationale = _text(record.get("rationale"), "rationale")
    images = read_images(record.get("image"), context, separator=context.options.extra.get("image_separator", ""))
    task = _text(record.get("task"), "task") or context.options.extra.get("task") or _task(record, rationale)
    if not images and task not in ("text", "dialogue"):
        raise BadSample("missing_image", f"the row has no image, and its task is {task[:40]}")
    if task == "text" and images:
        raise BadSample("bad_field", "the task is text, and the row has an image")
    if "instruction" in record:
        alone = _text(record["instruction"], "instruction")
        given = _text(record.get("input"), "input")
        if not alone:
            raise BadSample("bad_field", "the instruction is empty")
        asked = image_marks_in_text(f"{alone}\n\n{given}" if given else alone, len(images))
        meta |= {"instruction": alone} if given else {}
        if IMAGE_MARK not in asked:
            asked = with_image_marks(asked, images=len(images))
    elif task not in INSTRUCTIONS:
        raise BadSample("bad_field", f"a row of task {task[:40]!r} needs an instruction")
    elif len(images) != IMAGES_SHOWN[task]:
        raise BadSample(
            "bad_field", f"{len(images)} images, and the instructions of {task} are on {IMAGES_SHOWN[task]}"
        )
    else:
        asked = instruction(task, key)
    response = _worded(task, record.get("response"), rationale)
    if IMAGE_MARK not in response:  # else `validate` says what is wrong
        response = image_marks_in_text(response, len(images))
    return one_turn(key, task, asked, response, images, meta)


def _task(record: dict[str, Any], rationale: str) -> str:
    if "image" not in record:
        return "text"
    if "instruction" not in record:
        return "captioning"
    return "vqa_rationale" if rationale else "vqa"


def _worded(task: str, response: Any, rationale: str) -> str:
    """Word the response for the task, as in `responses.py`."""
    if response is None:
        raise BadSample("missing_annotation", "the row has no response")
    given = json_list_in(response, str, dict) if task not in ("text", "dialogue", "classification") else response
    if task in ("vqa", "vqa_rationale"):
        if isinstance(given, list):
            given, _ = majority([item if isinstance(item, dict) else _text(item, "response") for item in given])
        if not (answer := _text(given, "response")):
            raise BadSample("empty_response", "the answer is empty")
        return answer_response(answer, rationale)
    return distinct_lines(_text(item, "response") for item in (given if isinstance(given, list) else [given]))


def _text(value: Any, name: str) -> str:
    """Return a cell as text, stripped but with its own line breaks."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadSample("bad_field", f"the {name} must be text or a number, not {describe_type(value)}")
    found = to_json_value(value, f"the {name}")
    return "" if found is None else str(found).strip()


SOURCE = Source(
    name="table",
    title="your own table",
    use="own data",
    task="vqa",
    files="a .csv, .tsv, .jsonl, .json (each may be compressed), .parquet or .arrow file, or a folder of them; the "
    "images that its cells name, or hold",
    published="your own",
    licence="your own",
    evidence="own format",
    records=records,
    identify=lambda record: id_field(as_object(record), "id"),
    build=build,
    split_in_record=True,
    images="optional",
    extra={
        "task": f"the task of all rows: {', '.join(TASKS)}",
        "delimiter": "what separates the cells of a text file: comma, tab, semicolon, bar, space or a character",
        "header": "none, for a text file whose first line is a row already; its columns are called 1, 2, 3 …",
        "quoting": "none, for a text file in which quotation marks mean nothing",
        "image_separator": "what separates the paths of several images in a cell",
    },
    columns=(*FIELDS, "meta.NAME"),
)
