"""Streams the file of an upload form to its place as it arrives; memory holds one block, whatever the file's size.

Starlette's forms would first write a file of any size to the machine's temporary folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import ApiError, invalid

_FIELDS = 16
_FIELD_BYTES = 4096
_START_BYTES = 4


@dataclass(kw_only=True)
class Form:
    """An upload form, without the file's bytes.

    Attributes:
        fields: text fields, by name.
        filename: the client's name for the file; "" for none.
        size: the file's size in bytes.
        start: the file's first bytes, four or fewer.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    size: int = 0
    start: bytes = b""


async def receive_form(content_type: str, body: AsyncIterator[bytes], file: BinaryIO, limit: int, setting: str) -> Form:
    """Read a form; its part `file` is written to `file`.

    Args:
        content_type: the request's header.
        body: the request's body, in blocks.
        file: open for writing.
        limit: maximum bytes of the file.
        setting: the name of that limit.

    Raises:
        ApiError: 400 for an invalid form, 413 for a file that is too large.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise _invalid_form("send multipart/form-data with a boundary")
    reader = _FormReader(file, limit, setting)
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
        async for block in body:
            parser.write(block)
            await asyncio.to_thread(reader.flush)
        parser.finalize()
    except FormParserError as error:
        raise _invalid_form(str(error)) from None
    if not reader.complete:
        raise _invalid_form("it is incomplete")
    if not reader.got_file:
        raise _invalid_form("it has no part 'file'")
    return reader.form


class _FormReader:
    """Collects what the parser reports."""

    def __init__(self, file: BinaryIO, limit: int, setting: str):
        self.form = Form()
        self.got_file = self.complete = False
        self._file, self._limit, self._setting = file, limit, setting
        self._blocks: list[bytes] = []
        self._header = self._value = self._disposition = self._text = b""
        self._name: str | None = None

    def callbacks(self) -> dict[str, object]:
        """The callbacks of `MultipartParser`."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in (*names, "headers_finished", "end")}

    def flush(self) -> None:
        """Write the part of the file that has arrived."""
        self._file.writelines(self._blocks)
        self._blocks.clear()

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
                raise _invalid_form("it has two parts 'file'")
            self.got_file = True
            self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:255]
        elif len(self.form.fields) >= _FIELDS:
            raise _invalid_form(f"it has more than {_FIELDS} fields")
        self._name = name

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.form.size += end - start
            if self.form.size > self._limit:
                message = f"the file has more than {self._limit:,} bytes ({self._setting})"
                raise ApiError(413, message, code="file_too_large", param="file")
            if len(self.form.start) < _START_BYTES:
                self.form.start = (self.form.start + data[start:end])[:_START_BYTES]
            self._blocks.append(data[start:end])
        elif len(self._text) + end - start > _FIELD_BYTES:
            raise _invalid_form(f"a field has more than {_FIELD_BYTES} bytes")
        else:
            self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._name not in (None, "file"):
            self.form.fields[str(self._name)] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.complete = True


def _invalid_form(why: str) -> ApiError:
    return invalid("", f"invalid form: {why}", "invalid_form")
