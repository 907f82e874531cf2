"""The lines of a bulk job: whatever the bytes, each line comes out once, as a rewriting or as an error."""

from __future__ import annotations

import codecs
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batches.lines import Line, read_lines
from tests.support.run_batches import bulk_config

CONFIG = bulk_config(Path("unused"))


def line(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    """Return a good line with some changes."""
    body = {"instruction": "How long does an egg boil?", "raw": "8 minutes"}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/rewrite", "body": body} | changes


def read(data: bytes) -> list[Line]:
    return list(read_lines(io.BytesIO(data), CONFIG))


def lines_in(data: bytes) -> int:
    """Count the lines in another way: non-blank text between line feeds."""
    return sum(bool(one.strip()) for one in data.removeprefix(codecs.BOM_UTF8).split(b"\n"))


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"\n", b"\r\n", b" ", b"\xff", b"{", b"null", b"[1]", b'"\\ud800"', b"[" * 3000, b"x" * 21_000]),
    st.sampled_from(["a", "b", "", 3]).map(lambda name: json.dumps(line(name)).encode()),
    st.dictionaries(st.sampled_from(list(line())), st.recursive(st.none() | st.text(max_size=5), st.lists)).map(
        lambda wrong: json.dumps(line("c") | wrong).encode()
    ),
)


@settings(max_examples=60)
@given(st.lists(pieces, max_size=12).map(b"\n".join) | st.lists(pieces, max_size=6).map(b"".join))
def test_any_bytes_become_as_many_outcomes_as_lines(data: bytes) -> None:
    found = read(data)
    assert len(found) == lines_in(data)
    assert all((one.content is None) != (one.error is None) for one in found)
    assert [one.number for one in found] == sorted({one.number for one in found})
    good = [one.custom_id for one in found if one.content is not None]
    assert len(good) == len(set(good)) and all(good)
    assert all(one.error is None or "\n" not in one.error.message for one in found)


def test_good_lines_are_read() -> None:
    data = "\n\n".join(json.dumps(line(name)) for name in "abc").encode()
    found = read(data)
    assert [(one.number, one.custom_id) for one in found] == [(1, "a"), (3, "b"), (5, "c")]
    assert all(one.content is not None and one.content.raw == "8 minutes" for one in found)


def test_a_line_may_be_as_long_as_a_request_and_no_longer() -> None:
    size = CONFIG.serving.limits.body_bytes
    text = json.dumps(line())
    whole, longer = (text + " " * (length - len(text)) for length in (size, size + 1))
    found = read(f"{whole}\r\n{longer}\n{'x' * 3 * size}\n{json.dumps(line('b'))}".encode())
    assert [one.error.code if one.error else one.custom_id for one in found] == [
        "a", "line_too_long", "line_too_long", "b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (line(None), "custom_id: must be a string"),
        (line(""), "custom_id: must be a string"),
        (line("x" * 513), "custom_id: must be a string"),
        (line(method="GET"), "method: must be 'POST'"),
        (line(url="/v1/chat/completions"), "url: must be '/v1/rewrite'"),
        (line(body=[]), "body: must be a JSON object"),
        (line(body={"raw": "b"}), "body.instruction: Field required"),
        (line(body={"instruction": "a", "raw": "b", "seed": 3}), "body.seed: bulk jobs use the server's settings"),
        (line(body={"instruction": "a", "raw": "b", "scores": False}), "body.scores"),
        (line(body={"instruction": "a", "raw": "b" * 2001}), "the limit is 2000 (limits.text_characters)"),
        (line(body={"instruction": "a", "raw": "b", "model": "gpt"}), "use 'polite-flamingo'"),
        (line(body={"items": []}), "body."),
        ([], "must be a JSON object, not list"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(wrong: Any, says: str) -> None:
    [good, bad, duplicate] = read("\n".join(json.dumps(one) for one in (line("first"), wrong, line("first"))).encode())
    assert good.error is None
    assert bad.error is not None and says in bad.error.message
    assert duplicate.error is not None and duplicate.error.code == "duplicate_custom_id"


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    both = json.dumps(line("a")).encode() + b"\n" + json.dumps(line("b")).encode()
    assert read(codecs.BOM_UTF8 + both) == read(both)
    assert [one.custom_id for one in read(codecs.BOM_UTF8 + both) if one.content] == ["a", "b"]
