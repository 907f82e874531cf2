"""What an annotation file is, told by its bytes; its name decides only where the bytes leave it open.

`READ` are the kinds that are read, `REFUSED` those that are told apart to be refused at once: a zip taken for lines of
text would be thousands of nonsense rows.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from shlex import quote
from typing import Literal, get_args

from polite_flamingo.sources.delimited import looks_delimited
from polite_flamingo.sources.reading import SourceError
from polite_flamingo.sources.streaming import only_value, open_text
from polite_flamingo.sources.unpacking import open_bytes, packing, unpacked_name
from polite_flamingo.text_files import other_encoding

Kind = Literal[
    "JSON list", "JSON lines", "JSON object", "delimited text", "Parquet", "Arrow file", "Arrow stream",
    "empty",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)

READ: dict[Kind, str] = {
    "JSON list": "[{…}, {…}]",
    "JSON lines": "an object a line; a line that is not JSON costs itself alone",
    "JSON object": "one record, or an object with the list of records under one of the names below",
    "delimited text": "CSV, TSV and the like: the first line names the columns; comma, tab, semicolon or bar, "
    "whichever cuts the lines into columns; Excel's first line `sep=;` is heeded; lines may end with a carriage return",
    "Parquet": "with or without pictures in it; the names of Hugging Face's class labels are read from its schema",
    "Arrow file": "Arrow IPC, which is also Feather version 2",
    "Arrow stream": "Arrow IPC as `datasets` keeps it on disk",
    "empty": "a file without a byte, or of white space: no records",
}  # fmt: skip
"""The kinds that are read, with what is to be known of each. Text may be packed: see `unpacking.PACKED`."""

_UNPACK = "unpack it first, and give what was in it"
REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG picture", ""),
    (0, b"\x89PNG\r\n", "a PNG picture", ""),
    (0, b"GIF8", "a GIF picture", ""),
    (0, b"BM", "a BMP picture", ""),
    (0, b"II*\0", "a TIFF picture", ""),
    (0, b"MM\0*", "a TIFF picture", ""),
    (8, b"WEBP", "a WebP picture", ""),
    (8, b"WAVE", "a sound", ""),
    (8, b"AVI ", "a video", ""),
    (4, b"ftypavi", "an AVIF picture", ""),
    (4, b"ftyphei", "a HEIC picture", ""),
    (4, b"ftyp", "a video", ""),
    (0, b"\x1aE\xdf\xa3", "a video", ""),
    (0, b"ID3", "a sound", ""),
    (0, b"fLaC", "a sound", ""),
    (0, b"OggS", "a sound", ""),
    (0, b"PK\x05\x06", "an empty zip archive", ""),
    (257, b"ustar\0", "a tar archive", "unpack it first (tar -xf {path}); one of pictures with captions beside them "
     "(WebDataset) is read by --source webdataset"),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document (.xls, .doc)", "save the sheet as CSV"),
    (0, b"%PDF", "a PDF document", ""),
    (0, b"{\\rtf", "an RTF document", ""),
    (0, b"\x93NUMPY", "a NumPy array", ""),
    (0, b"\x89HDF", "an HDF5 file", "write its rows as JSON lines or Parquet"),
    (0, b"SQLite format 3", "an SQLite database", "write a table of it as CSV: "
     "sqlite3 -header -csv {path} 'select * from TABLE' > TABLE.csv"),
    (0, b"Obj\x01", "an Avro file", "write its rows as Parquet"),
    (0, b"ORC", "an ORC file", "write its rows as Parquet"),
    (0, b"FEA1", "a Feather file of version 1", "write its rows again, with a newer pyarrow, as Parquet"),
    (0, b"PARE", "an encrypted Parquet file", "decrypt it first"),
    (0, b"GGUF", "the weights of a model (GGUF)", ""),
    (0, b"\x7fELF", "a program", ""),
    (0, b"MZ", "a program of Windows", ""),
    (0, b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` in the clone"),
    (0, b"version https://hawser", "a Git LFS pointer", "run `git lfs pull` in the clone"),
)  # fmt: skip
"""Offset, bytes, what a file is that has them there, and what to do ("": nothing but to give another file)."""

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_MARKUP = re.compile(r"\s*<(!doctype|html|head|body|\?xml|svg|[a-z]+[ >])", re.IGNORECASE)
_HEAD = 1 << 16
"""Bytes that are looked at, once unpacked."""

_NAMED: dict[str, Kind] = {".parquet": "Parquet", ".arrow": "Arrow file", ".feather": "Arrow file"}
"""What an empty file should have been; whoever reads it says that it is not."""

_JSON_NAMES = (".json", ".jsonl", ".ndjson", ".jsonlines")


def head(path: Path) -> bytes:
    """The first bytes of a file, unpacked; all where it is short. Raises `SourceError`."""
    with open_bytes(path) as raw:
        return raw.read(_HEAD)


def kind_of_file(path: Path) -> Kind:
    """What an annotation file is. Raises `SourceError` for one that is not read, with what it is and what to do."""
    start = head(path)
    if start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        with path.open("rb") as file:
            if packed := packing(file.read(8)):
                remedy = f"{packed} -dc {quote(str(path))} > {quote(f'{path}.unpacked')}"
                raise SourceError(f"{path} is a {packed} file of Parquet or Arrow: unpack it first ({remedy})")
        return {b"P": "Parquet", b"A": "Arrow file"}.get(start[:1], "Arrow stream")  # type: ignore[return-value]
    if not start and (named := _NAMED.get(path.suffix.lower())):
        return named
    if what := refused_as(path, start):
        raise SourceError(f"{path} is {what}")
    with open_text(path) as file:  # refuses other encodings
        text = file.read(_HEAD)
    return _kind_of_text(path, text)


def refused_as(path: Path, start: bytes) -> str:
    """What a file is that cannot be read, with what to do; "" where it may be one that can."""
    for offset, magic, what, remedy in REFUSED:
        if start[offset:].startswith(magic) and not ((offset or len(magic) < 4) and _is_text(start)):
            todo = remedy.format(path=quote(str(path))) or "give the file with the annotations"
            return f"{what}, not annotations: {todo}"
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    if _PICKLE.match(start):
        return "a Python pickle, which is never opened here, since it can run any program: save it as JSON or Parquet"
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 30:
        return "the weights of a model (safetensors), not annotations: give the file with the annotations"
    if other_encoding(start):
        return ""
    if _MARKUP.match(start[:200].decode("utf-8-sig", "replace")):
        if re.match(rb"\s*<(\?xml|svg)", start[:200]):
            return "XML, which this source does not read: write it as JSON, or see --list for the sources that read it"
        return "an HTML page, perhaps of an error or a login: download the file itself"
    return "" if _is_text(start) else "a binary file of an unknown kind, not annotations: give JSON, CSV or Parquet"


def _is_text(start: bytes) -> bool:
    """Whether few of the bytes are such as no text has: a stray NUL costs its row, not the file."""
    strange = sum(start.count(byte) for byte in range(32) if byte not in b"\t\n\v\f\r\x1b\x1e")
    return strange * 20 <= len(start)


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a damaged zip archive, not annotations: download it again, and unpack it"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook: save the sheet as CSV"
    if any(name.startswith("word/") for name in names):
        return "a Word document, not annotations: give JSON, CSV or Parquet"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "a PyTorch file, which is never opened here, since it can run any program: save it as JSON or Parquet"
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz), not annotations: write the rows as JSON lines or Parquet"
    into = quote(str(path.with_suffix("")))
    return f"a zip archive: unpack it first (python -m zipfile -e {quote(str(path))} {into}), and give what was in it"


def _kind_of_text(path: Path, text: str) -> Kind:
    start = text.lstrip()
    if not start:
        return "empty"
    named_json = unpacked_name(path.name).lower().endswith(_JSON_NAMES)
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
    """Of a text that begins with a brace."""
    lines = [line for line in start.splitlines()[:3] if line.strip()]
    if len(lines) > 1 and (_parses(lines[0]) or (lines[0].strip() != "{" and _parses(lines[1]))):
        return "JSON lines"
    try:
        only_value(path)
    except SourceError as error:
        if "a record of more than" in str(error):
            return "JSON object"
        if lines[0].strip() == "{":
            raise  # an object over several lines that is broken, with the place where it is
        return "JSON lines"
    return "JSON object"


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
