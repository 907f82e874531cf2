"""Recognises files that hold no annotations by their first bytes, and says what to do.

A zip or a picture taken for lines of text would be thousands of nonsense rows, so each is refused at once.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from shlex import quote

from polite_flamingo.text_files import other_encoding

_UNPACK = "unpack it first, and give what was in it"
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
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
    (0, b"MZ", "a Windows program", ""),
    (0, b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` in the clone"),
    (0, b"version https://hawser", "a Git LFS pointer", "run `git lfs pull` in the clone"),
)  # fmt: skip
"""Offset, bytes at that offset, the kind of file, and what to do ("": give another file)."""

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_MARKUP = re.compile(r"\s*<(!doctype|html|head|body|\?xml|svg)[\s>]", re.IGNORECASE)


def why_unsupported(path: Path, start: bytes) -> str:
    """Say what a file without annotations is, and what to do; "" if it may hold annotations."""
    for offset, magic, what, remedy in SIGNATURES:
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
    """Whether nearly all bytes are text: a stray NUL costs its row, not the file."""
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
