"""Files as bytes, decompressed if their first bytes say gzip, bzip2, xz, Zstandard or LZ4.

The name does not matter: an uncompressed `a.jsonl.gz` and a compressed `a.jsonl` are both read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from polite_flamingo.sources.reading.errors import SourceError

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
"""Compression formats by the first bytes of a file."""

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
"""Suffixes of compressed files."""

_BUFFER = 1 << 16


def compression_of(start: bytes) -> str:
    """Tell how a file that starts with these bytes is compressed; "" if it is not."""
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), "")


def uncompressed_name(name: str) -> str:
    """Return a file name without its compression suffix."""
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


@contextmanager
def open_bytes(path: Path) -> Iterator[Any]:
    """Open a file as an `io.BufferedReader` of its decompressed bytes. Raises `SourceError`, also while reading."""
    try:
        with path.open("rb") as raw:
            assert isinstance(raw, io.BufferedReader)
            packed = compression_of(raw.peek(8))
            yield io.BufferedReader(_Unpacked(path, packed, raw), _BUFFER) if packed else raw
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}): check path and permissions") from None


class _Unpacked(io.RawIOBase):
    """The decompressed bytes of a codec; damage raises `SourceError`."""

    def __init__(self, path: Path, packed: str, raw: IO[bytes]):
        self._path = path
        self._codec = _codec(packed, raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what one read of the codec returns; 0 at the end."""
        try:
            data = self._codec.read(len(buffer))
        except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno and not isinstance(error, gzip.BadGzipFile):
                raise
            raise SourceError(f"{self._path} does not unpack ({error}); was it downloaded whole?") from None
        buffer[: len(data)] = data
        return len(data)


def _codec(packed: str, raw: IO[bytes]) -> Any:
    if packed == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if packed == "bzip2":
        return bz2.BZ2File(raw)
    if packed == "xz":
        return lzma.LZMAFile(raw)
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), packed)
