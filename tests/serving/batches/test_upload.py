"""A form with a file, however it is cut into pieces: the file arrives whole, or the client is told why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batches.upload import Form, receive_form
from serving.errors import ApiError

TYPE = "multipart/form-data; boundary=cut"


def part(name: str, data: bytes, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--cut\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


GOOD = part("purpose", b"batch") + part("file", b"one\r\n--cu two", "lines.jsonl") + b"--cut--\r\n"


def receive(path: Path, pieces: Sequence[bytes], content_type: str = TYPE, most: int = 100) -> Form:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    with path.open("wb") as file:
        return asyncio.run(receive_form(content_type, body(), file, most, "the limit"))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_file_arrives_whole_however_it_is_cut(tmp_path: Path, size: int) -> None:
    pieces = [GOOD[start : start + size] for start in range(0, len(GOOD), size)]
    form = receive(tmp_path / "data", pieces)
    assert (tmp_path / "data").read_bytes() == b"one\r\n--cu two"
    assert (form.fields, form.filename, form.size) == ({"purpose": "batch"}, "lines.jsonl", 13)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "says"),
    [
        (GOOD, "application/json", 400, "send multipart/form-data"),
        (GOOD, "multipart/form-data", 400, "boundary"),
        (GOOD[:-6], TYPE, 400, "it is incomplete"),
        (b"", TYPE, 400, "it is incomplete"),
        (part("purpose", b"batch") + b"--cut--\r\n", TYPE, 400, "no part 'file'"),
        (part("file", b"a") + part("file", b"b") + b"--cut--\r\n", TYPE, 400, "two parts 'file'"),
        (part("file", b"x" * 101) + b"--cut--\r\n", TYPE, 413, "more than 100 bytes (the limit)"),
        (part("purpose", b"x" * 5000) + b"--cut--\r\n", TYPE, 400, "4096 bytes"),
        (b"".join(part(f"{n}", b"") for n in range(17)) + b"--cut--\r\n", TYPE, 400, "more than 16 fields"),
    ],
)
def test_what_is_no_such_form_is_refused(
    tmp_path: Path, body: bytes, content_type: str, status: int, says: str
) -> None:
    with pytest.raises(ApiError) as refused:
        receive(tmp_path / "data", [body], content_type)
    assert refused.value.status == status and says in refused.value.message


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"--cut", b"\r\n", b"\r\n\r\n", GOOD[:60], GOOD[60:]])))
def test_any_bytes_are_a_form_or_refused(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    try:
        form = receive(path, pieces)
    except ApiError as error:
        assert error.status in (400, 413)
    else:
        assert form.size == path.stat().st_size
