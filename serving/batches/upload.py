"""A form with one file -> the file on disk, piece by piece as it comes. Memory holds a piece, whatever the file's size.

Starlette's own forms would put a file of any size into the machine's temporary folder first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import ApiError

_FIELDS = 16
_FIELD_BYTES = 4096


@dataclass(kw_only=True)
class Form:
    """What came beside the file's bytes.

    Attributes:
        fields: texts, by name.
        filename: of the file; "" where it said none.
        size: bytes of the file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    size: int = 0


async def receive_form(content_type: str, body: AsyncIterator[bytes], file: BinaryIO, most: int, limit: str) -> Form:
    """Read a form; its part `file` goes to `file`, which is synced.

    Args:
        content_type: header of the request.
        body: of the request, in pieces.
        file: open for writing.
        most: bytes of the file.
        limit: what `most` is called.

    Raises:
        ApiError: 400 for what is no such form, 413 for a file that is too large.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise _no_form("send multipart/form-data with a boundary")
    reader = _Reader(file, most, limit)
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        async for piece in body:
            parser.write(piece)
            await asyncio.to_thread(reader.flush)
        parser.finalize()
    except FormParserError as error:
        raise _no_form(str(error)) from None
    if not reader.complete:
        raise _no_form("it ends early")
    if not reader.got_file:
        raise _no_form("it has no part 'file'")
    await asyncio.to_thread(_sync, file)
    return reader.form


class _Reader:
    """What the parser tells, collected."""

    def __init__(self, file: BinaryIO, most: int, limit: str):
        self.form = Form()
        self.got_file = self.complete = False
        self._file, self._most, self._limit = file, most, limit
        self._pieces: list[bytes] = []
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name: str | None = None
        self._text = b""

    def callbacks(self) -> dict[str, object]:
        """For `MultipartParser`."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in (*names, "headers_finished", "end")}

    def flush(self) -> None:
        """Write what came of the file."""
        self._file.writelines(self._pieces)
        self._pieces.clear()

    def _on_part_begin(self) -> None:
        self._disposition, self._name, self._text = b"", None, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "file":
            if self.got_file:
                raise _no_form("it has two parts 'file'")
            self.got_file = True
            self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:255]
        elif len(self.form.fields) >= _FIELDS:
            raise _no_form(f"it has more than {_FIELDS} fields")
        self._name = name

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.form.size += end - start
            if self.form.size > self._most:
                message = f"the file has more than {self._most:,} bytes ({self._limit})"
                raise ApiError(413, message, code="file_too_large", param="file")
            self._pieces.append(data[start:end])
        elif len(self._text) + end - start > _FIELD_BYTES:
            raise _no_form(f"a field has more than {_FIELD_BYTES} bytes")
        else:
            self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._name not in (None, "file"):
            self.form.fields[str(self._name)] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.complete = True


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _no_form(why: str) -> ApiError:
    return ApiError(400, f"the form cannot be read: {why}", code="invalid_form")
