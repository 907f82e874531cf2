"""Recognises what an annotation file is by its bytes; the name decides only if the bytes leave it open.

`READABLE` lists the kinds that are read. Any other kind is refused at once, by name (`unsupported_files.py`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from shlex import quote
from typing import Literal

from polite_flamingo.sources.reading.compression import compression_of, open_bytes, uncompressed_name
from polite_flamingo.sources.reading.delimited import looks_delimited
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.streaming import only_value, open_text

Kind = Literal[
    "JSON list", "JSON lines", "JSON object", "delimited text", "Parquet", "Arrow file", "Arrow stream",
    "empty",
]  # fmt: skip
ARROW: tuple[Kind, ...] = ("Parquet", "Arrow file", "Arrow stream")
"""The kinds that pyarrow reads."""

READABLE: dict[Kind, str] = {
    "JSON list": "[{…}, {…}]",
    "JSON lines": "one object per line; a line that is not JSON costs only itself",
    "JSON object": "one record, or an object with the list of records under one of the names below",
    "delimited text": "CSV, TSV and the like: the first line names the columns; comma, tab, semicolon or bar, "
    "whichever cuts the lines into columns; Excel's first line `sep=;` is obeyed; lines may end with a carriage return",
    "Parquet": "with or without pictures in it; the names of Hugging Face's class labels are read from its schema",
    "Arrow file": "Arrow IPC, which is also Feather version 2",
    "Arrow stream": "Arrow IPC as `datasets` keeps it on disk",
    "empty": "an empty file, or one of white space: no records",
}  # fmt: skip
"""The kinds that are read, each with a note. Text may be compressed: see `compression.MAGIC`."""

_HEAD = 1 << 16
"""Bytes inspected, after decompression."""

_NAMED: dict[str, Kind] = {".parquet": "Parquet", ".arrow": "Arrow file", ".feather": "Arrow file"}
"""What an empty file should have been; its reader reports the error."""

_JSON_NAMES = (".json", ".jsonl", ".ndjson", ".jsonlines")


def detect_kind(path: Path) -> Kind:
    """Detect what an annotation file is. Raises `SourceError` for an unsupported one, saying what to do."""
    with open_bytes(path) as raw:
        start = raw.read(_HEAD)
    if start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        with path.open("rb") as file:
            if packed := compression_of(file.read(8)):
                remedy = f"{packed} -dc {quote(str(path))} > {quote(f'{path}.unpacked')}"
                raise SourceError(f"{path} is a {packed} file of Parquet or Arrow: unpack it first ({remedy})")
        return {b"P": "Parquet", b"A": "Arrow file"}.get(start[:1], "Arrow stream")  # type: ignore[return-value]
    if not start and (named := _NAMED.get(path.suffix.lower())):
        return named
    with open_text(path) as file:  # raises for a file that is not text
        text = file.read(_HEAD)
    return _kind_of_text(path, text)


def _kind_of_text(path: Path, text: str) -> Kind:
    start = text.lstrip()
    if not start:
        return "empty"
    named_json = uncompressed_name(path.name).lower().endswith(_JSON_NAMES)
    if start[0] == "[" and re.match(r"\[\s*([\[\]{\"0-9tfnNI-]|$)", start):
        lines = [line for line in start.splitlines()[:3] if line.strip()]
        return "JSON lines" if len(lines) > 1 and _parses(lines[0]) else "JSON list"
    if start[0] == "{":
        return _kind_of_objects(path, start)
    lines = [line for line in start.splitlines()[:20] if line.strip()]
    some_json = any(line.lstrip().startswith("{") and _parses(line) for line in lines)
    if some_json or (named_json and not looks_delimited(text)):
        return "JSON lines"
    return "delimited text"


def _kind_of_objects(path: Path, start: str) -> Kind:
    """Detect the kind of a text that begins with a brace."""
    lines = [line for line in start.splitlines()[:3] if line.strip()]
    if len(lines) > 1 and (_parses(lines[0]) or (lines[0].strip() != "{" and _parses(lines[1]))):
        return "JSON lines"
    try:
        only_value(path)
    except SourceError as error:
        if "a record of more than" in str(error):
            return "JSON object"
        if lines[0].strip() == "{":
            raise  # a broken object over several lines; the error names the place
        return "JSON lines"
    return "JSON object"


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
