"""Unusual requests of real clients: they are answered, or told in one line what to send."""

from __future__ import annotations

import codecs
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from uvicorn.protocols.http import httptools_impl

from serving.http import http10
from tests.support.patience import PATIENCE
from tests.support.stub_service import application, configured, serving_on_a_port

Address = tuple[str, int]
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "What is this?"}]
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mO8I6fBgA0wMeAAg1MCAOgIATJu8fvM"
    "AAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    app, tried = application(configured())
    tried.go_on.set()
    with serving_on_a_port(app) as address:
        yield address


def spoken(address: Address, version: str, body: Any) -> tuple[bytes, bytes]:
    """Head and body of the answer, byte for byte, up to the end of the connection."""
    sent = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/{version}\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    found, _, rest = received.partition(b"\r\n\r\n")
    return found.lower(), rest


@pytest.mark.parametrize("server", ["uvicorn's framing is ours", "another server stands in front"])
def test_a_stream_over_http_1_0_is_a_plain_body(server: str, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.startswith("another"):
        monkeypatch.setattr(httptools_impl, "RequestResponseCycle", http10._Cycle.__base__)
    head, body = spoken(address, "1.0", {"model": "clever-flamingo", "messages": USER, "stream": True})
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert (b"content-length" in head) == server.startswith("another")
    assert body.startswith(b'data: {"id"') and body.endswith(b"data: [DONE]\n\n")
    head, body = spoken(address, "1.0", {"model": "clever-flamingo", "messages": USER})
    assert b"content-length" in head and json.loads(body)["object"] == "chat.completion"
    head, body = spoken(address, "1.1", {"model": "clever-flamingo", "messages": USER, "stream": True})
    assert b"transfer-encoding: chunked" in head and not body.startswith(b"data:")


def asked(address: Address, body: bytes, **headers: str) -> httpx2.Response:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx2.post(f"http://{address[0]}:{address[1]}{CHAT}", content=body, headers=sent, timeout=PATIENCE)


def test_values_of_what_is_ignored_are_ignored(address: Address) -> None:
    """Those that the official client's types have today, and those that they will have."""
    for detail in ("auto", "original", "ultra", None, {"level": 3}):
        part = {"type": "image_url", "image_url": {"url": PICTURE, "detail": detail}, "prompt_cache_breakpoint": {}}
        message = {"role": "user", "name": 5, "content": [part, {"type": "text", "text": "What?", "annotations": []}]}
        more = {"service_tier": "priority", "prompt_cache_options": {"mode": "explicit"}, "moderation": {"model": "m"},
                "stream_options": None, "store": "yes", "metadata": 3}  # fmt: skip
        answer = asked(address, json.dumps({"model": "clever-flamingo", "messages": [message], **more}).encode())
        assert answer.status_code == 200, (detail, answer.text)


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "image_url", "image_url": PICTURE}], "messages.0.content.0.image_url"),
        ([{"type": "image_url", "image_url": {"uri": PICTURE}}], "messages.0.content.0.image_url.url"),
        ([{"type": "image_url", "image_url": {"url": None}}], "messages.0.content.0.image_url.url"),
        ([{"type": "image_url"}], "messages.0.content.0.image_url"),
        ([{"type": "image", "source": PICTURE}], "messages.0.content.0"),
        ([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}], "messages.0.content.0"),
        ([{"type": "text", "content": "What?"}], "messages.0.content.0.text"),
        (["What?"], "messages.0.content.0"),
        ({"type": "text", "text": "What?"}, "messages.0.content"),
    ],
)
def test_what_is_wrong_with_a_part_says_what_to_send(content: Any, param: str, address: Address) -> None:
    body = {"model": "clever-flamingo", "messages": [{"role": "user", "content": content}]}
    answer = asked(address, json.dumps(body).encode())
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert '{"type": "image_url", "image_url": {"url": "data:image/png;base64,' in error["message"]
    assert PICTURE[40:] not in error["message"]


UTF_16 = {"content_type": "application/json; charset=utf-16"}
BODY = json.dumps({"model": "clever-flamingo", "messages": USER})


def test_a_byte_order_mark_is_no_part_of_a_body(address: Address) -> None:
    assert asked(address, codecs.BOM_UTF8 + BODY.encode()).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (BODY.encode("utf-16"), UTF_16, 400, "UTF-16, not UTF-8: convert"),
        (BODY.encode("utf-16-be"), {}, 400, "UTF-16BE, not UTF-8: convert"),
        (BODY.encode("utf-32"), {}, 400, "UTF-32, not UTF-8: convert"),
        (b"", {}, 400, "must be a JSON object"),
        (b"\r\n", {}, 400, "empty; send a JSON object"),
        (BODY.replace('"What is this?"', "NaN").encode(), {}, 400, "JSON"),
        (gzip.compress(BODY.encode(), mtime=0), {"content_encoding": "gzip"}, 415, "without Content-Encoding"),
    ],
)
def test_what_cannot_be_read_says_why(
    body: bytes, headers: dict[str, str], status: int, said: str, address: Address
) -> None:
    answer = asked(address, body, **headers)
    assert answer.status_code == status and said in answer.json()["error"]["message"], answer.text


def test_head_is_get_without_a_body(address: Address) -> None:
    """Load balancers send such requests."""
    for path, status in (("/health", 200), ("/v1/models", 200), ("/v1/nothing", 404), (CHAT, 405)):
        url = f"http://{address[0]}:{address[1]}{path}"
        head, whole = httpx2.head(url, timeout=PATIENCE), httpx2.get(url, timeout=PATIENCE)
        assert head.status_code == whole.status_code == status and not head.content
        assert head.headers["content-length"] == whole.headers["content-length"]
