"""Decoding of text from users, files and request bodies: UTF-8, with or without a byte order mark.

UTF-16 and UTF-32 (Excel's "Unicode text", PowerShell's `>`) are recognised, with or without a mark, and refused with
the remedy.
"""

from __future__ import annotations

import codecs
from shlex import quote
from typing import Protocol

_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks of encodings that are refused. iconv removes them."""


class NotText(ValueError):
    """Bytes that are not UTF-8. The message is one line: what they are and what to do; callers add where.

    Attributes:
        what: description of the bytes, such as "UTF-16, not UTF-8".
        remedy: start of a command, without the file's name.
        before: words before the command.
    """

    def __init__(self, what: str, remedy: str, before: str = "convert it first"):
        super().__init__(f"{what}: {before}: {remedy}")
        self.what, self.remedy, self.before = what, remedy, before


def is_writable(text: str) -> bool:
    """Whether a string can be written as UTF-8; half of a surrogate pair cannot, and no tokenizer reads it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def other_encoding(start: bytes) -> str:
    """Return "UTF-16" or "UTF-32", with the byte order if known, if the first bytes suggest it; else ""."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if len(start) >= 4 and start[0] and not start[1]:
        return "UTF-32LE" if not any(start[1:4]) else "UTF-16LE" if start[2] and not start[3] else ""
    if len(start) >= 4 and not start[0]:
        return "UTF-32BE" if not any(start[:3]) and start[3] else "UTF-16BE" if start[1] and not start[2] else ""
    return ""


def without_mark(data: bytes) -> bytes:
    """Remove the byte order mark of UTF-8 text, without checking the rest.

    Args:
        data: the start of a text, at least four bytes if it has as many.

    Raises:
        NotText: it starts like UTF-16 or UTF-32.
    """
    if encoding := other_encoding(data[:4]):
        raise NotText(f"{encoding}, not UTF-8", f"iconv -f {encoding} -t UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def decoded(data: bytes) -> str:
    """Decode a whole text. Raises NotText."""
    try:
        return without_mark(data).decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        windows = "convert it first; if Windows wrote it"
        raise NotText(f"not UTF-8 ({where})", "iconv -f CP1252 -t UTF-8", windows) from None


class HasBytes(Protocol):
    """A path or a location."""

    def read_bytes(self) -> bytes:
        """Return all bytes. Raises OSError."""


def read_text(path: HasBytes) -> str:
    """Read a text file. Raises OSError, or NotText with the file's name and a command that converts it.

    Args:
        path: its path or location.
    """
    try:
        return decoded(path.read_bytes())
    except NotText as error:
        command = f"{error.remedy} {quote(str(path))} > {quote(f'{path}.utf8')}"
        raise NotText(f"{path} is {error.what}", command, error.before) from None
