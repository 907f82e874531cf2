"""The middleware on a real server with real sockets: sizes, slow clients, failures, ids and streams."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serving.config import AccessConfig, BatchesConfig, LimitsConfig
from tests.support import virtual_clock
from tests.support.patience import PATIENCE
from tests.support.stub_service import StubBackend, Tried, application, configured, serving_on_a_port

LIMITS = LimitsConfig(body_bytes=100_000)
Address = tuple[str, int]


@pytest.fixture(scope="module")
def one_server() -> Iterator[tuple[Address, Tried]]:
    app, tried = application(configured(limits=LIMITS))
    with serving_on_a_port(app) as address:
        yield address, tried


@pytest.fixture
def server(one_server: tuple[Address, Tried]) -> tuple[Address, Tried]:
    one_server[1].forget()
    return one_server


@contextlib.contextmanager
def client_of(address: Address) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=PATIENCE) as client:
        yield client


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """OpenAI's error, and all that every error must have."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"] and answer.headers["x-content-type-options"] == "nosniff"
    found: dict[str, Any] = body["error"]
    return found


def raw(address: Address, *pieces: bytes, pause: float = 0.0) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; status, headers and body of the answer."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        for number, piece in enumerate(pieces):
            time.sleep(pause if number else 0)
            with contextlib.suppress(ConnectionError):  # the server may have heard enough
                connection.sendall(piece)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


FREE = 'open_requests{ingress="local"} 0.0'
POST = b"POST /v1/try/echo/it HTTP/1.1\r\nHost: h\r\n"


def test_request_ids_are_the_clients_where_they_are_sane(server: tuple[Address, Tried]) -> None:
    with client_of(server[0]) as client:
        assert client.get("/health", headers={"X-Request-ID": "job-7.a_B"}).headers["x-request-id"] == "job-7.a_B"
        made = {client.get("/health").headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3 and all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in made)
        for insane in ("", "a b", "x" * 129, '"; rm', "ümlaut".encode()):
            answer = client.get("/health", headers={"x-request-id": insane})  # type: ignore[dict-item]
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_behind_a_proxy_that_answers_the_id_there_are_not_two_of_it() -> None:
    from serving.server.app import create_app

    with (
        serving_on_a_port(create_app(configured(), StubBackend(), send_request_id=False)) as address,
        client_of(address) as client,
    ):
        assert "x-request-id" not in client.get("/health").headers


def test_every_answer_carries_headers_against_framing_sniffing_and_foreign_scripts(
    server: tuple[Address, Tried],
) -> None:
    with client_of(server[0]) as client:
        for answer in (client.get("/health"), client.get("/docs"), client.get("/nothing"), client.get("/metrics")):
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self';" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"


def test_what_is_not_there_and_what_is_not_taken_are_errors_in_openais_format(server: tuple[Address, Tried]) -> None:
    with client_of(server[0]) as client:
        missing = client.post("/v1/embeddings", json={})
        assert missing.status_code == 404 and "/docs" in error_of(missing)["message"]
        assert client.get("/health/").status_code == 404, "no redirect that would name another host"
        wrong = client.delete("/v1/try/json")
        assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"
        assert "DELETE" in error_of(wrong)["message"]
        broken = client.post("/v1/try/json", content=b'{"a": ', headers={"content-type": "application/json"})
        assert broken.status_code == 400 and error_of(broken)["type"] == "invalid_request_error"


def test_a_body_that_says_it_is_too_large_is_refused_before_a_byte_of_it_came(server: tuple[Address, Tried]) -> None:
    address, tried = server
    status, headers, body = raw(address, POST + b"Content-Length: 100001\r\n\r\n")
    assert status == 413 and headers["connection"] == "close"
    assert json.loads(body)["error"]["code"] == "body_too_large" and "100,000 bytes" in body.decode()
    status, _, body = raw(address, POST + b"Content-Length: 99999999999999999999999\r\n\r\n")
    assert status in (400, 413)
    assert tried.bodies == []
    with client_of(address) as client:
        assert client.post("/v1/try/echo/it", content=b"x" * 100_000).json() == {"bytes": 100_000}, "the limit itself"
        refused = client.post("/v1/try/echo/it", content=b"x" * 3_000_000)
        assert refused.status_code == 413 and error_of(refused)["code"] == "body_too_large"


def test_expecting_clients_are_refused_without_being_asked_for_the_body(server: tuple[Address, Tried]) -> None:
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
    with socket.create_connection(server[0], timeout=PATIENCE) as connection:
        connection.sendall(expecting)
        assert connection.recv(12) == b"HTTP/1.1 413", "not 100"


def test_a_body_without_a_length_is_counted_while_it_comes(server: tuple[Address, Tried]) -> None:
    address, tried = server
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    status, _, body = raw(address, head, *[chunk(b"x" * 10_000)] * 10, b"0\r\n\r\n")
    assert (status, json.loads(body)) == (200, {"bytes": 100_000})
    status, headers, body = raw(address, head, *[chunk(b"x" * 10_000)] * 11)  # its end need not come
    assert status == 413 and headers["connection"] == "close"
    assert json.loads(body)["error"]["code"] == "body_too_large"
    status, _, body = raw(address, head.replace(b"/echo/it", b"/json"), chunk(b"x" * 100_001))
    assert status == 413, "also where FastAPI reads the body, which would make a 400 of it"
    assert len(tried.bodies) == 1


def test_uploads_have_a_limit_of_their_own(tmp_path: Path) -> None:
    config = configured(limits=LIMITS, batches=BatchesConfig(folder=str(tmp_path), file_bytes=200_000))
    app, _ = application(config)
    with serving_on_a_port(app) as address, client_of(address) as client:
        assert client.post("/v1/files", content=b"x" * 220_000).status_code != 413
        assert client.post("/v1/files", content=b"x" * 300_000).status_code == 413
        assert client.post("/v1/try/echo/it", content=b"x" * 150_000).status_code == 413


def test_a_body_that_trickles_in_is_not_waited_for() -> None:
    """Its end never comes, so waiting for it would last forever."""
    app, tried = application(configured(limits=LimitsConfig(body_seconds=0.3)))
    with serving_on_a_port(app) as address:
        status, headers, body = raw(address, POST + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 8, pause=0.1)
    assert status == 408 and headers["connection"] == "close" and json.loads(body)["error"]["code"] == "slow_body"
    assert tried.bodies == []


@pytest.mark.parametrize(("size", "pause", "status"), [(65_536, 0.9, 200), (65_536, 1.5, 408), (1000, 0.9, 408)])
def test_a_large_body_may_take_longer_than_a_small_one(size: int, pause: float, status: int) -> None:
    """Every body has three seconds, and one more per 64 KiB received."""
    app, tried = application(configured(limits=LimitsConfig(body_bytes=1 << 20, body_seconds=3.0)))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"x" * size
            await asyncio.sleep(pause)

    async def send() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client:
            return await client.post("/v1/try/echo/it", content=pieces())

    answer = virtual_clock.run(send())
    assert answer.status_code == status and len(tried.bodies) == (status == 200)


def test_huge_headers_and_urls_are_refused(server: tuple[Address, Tried]) -> None:
    address = server[0]
    for wide in (b"X-Wide: " + b"x" * 70_000 + b"\r\n", b"".join(b"X-%d: 1\r\n" % n for n in range(150))):
        status, _, body = raw(address, b"GET /health HTTP/1.1\r\nHost: h\r\n" + wide + b"\r\n")
        assert status == 431 and json.loads(body)["error"]["type"] == "invalid_request_error"
    target = b"GET /health?" + b"q" * 50_000
    status, _, _ = raw(address, target + b" HTTP/1.1\r\nHost: h\r\nX-Wide: " + b"x" * 20_000 + b"\r\n\r\n")
    assert status == 431


def test_bytes_that_are_no_utf8_in_headers_and_paths_break_nothing(server: tuple[Address, Tried]) -> None:
    strange = b"X-Request-ID: \xff\xfe\r\nAuthorization: Bearer \xff\xfe\r\nX-\x80: \xff\r\nOrigin: \xff\r\n"
    for target, expected in ((b"/health", (200, 400)), (b"/%ff%fe", (404, 400)), (b"/v1/try/echo/%00", (405, 400))):
        status, _, _ = raw(server[0], b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + strange + b"\r\n")
        assert status in expected
    with client_of(server[0]) as client:
        assert client.get("/health").status_code == 200


def test_what_nobody_expected_is_a_500_with_the_id_to_ask_about(server: tuple[Address, Tried]) -> None:
    with client_of(server[0]) as client:
        answer = client.post("/v1/try/fail", json={"prompt": "p"}, headers={"x-request-id": "ask-me"})
        error = error_of(answer)
        assert answer.status_code == 500 and error["type"] == "server_error" and "ask-me" in error["message"]
        assert client.get("/health").status_code == 200


def test_a_failure_after_the_answer_began_cuts_the_connection(server: tuple[Address, Tried]) -> None:
    with client_of(server[0]) as client:
        with (
            pytest.raises(httpx2.RemoteProtocolError, match="incomplete"),
            client.stream("POST", "/v1/try/fail_late", json={"prompt": "p"}) as answer,
        ):
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                pass
        assert 'route="/v1/try/fail_late",status="500"} 1.0' in client.get("/metrics").text


def test_a_stream_comes_piece_by_piece(server: tuple[Address, Tried]) -> None:
    address, tried = server
    with client_of(address) as client, client.stream("POST", "/v1/try/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 1" and not tried.go_on.is_set()
        tried.go_on.set()
        assert [line for line in lines if line] == ["data: 2"]


def test_a_client_that_leaves_ends_its_stream_and_is_written_down_as_gone(server: tuple[Address, Tried]) -> None:
    address, tried = server
    with client_of(address) as client:
        with client.stream("POST", "/v1/try/stream") as answer:
            pieces = answer.iter_raw()
            assert next(pieces) == b"data: 1\n\n" and not tried.closed.is_set()
        assert tried.closed.wait(PATIENCE), "the route's generator was closed"
        wanted = 'polite_flamingo_requests_total{ingress="local",method="POST",route="/v1/try/stream",status="499"} 1.0'
        assert wanted in eventually(client, wanted)
        assert FREE in eventually(client, FREE), "its place is free again"


def eventually(client: httpx2.Client, wanted: str) -> str:
    """Wait for the metrics: a request is counted a moment after its client has its answer."""
    deadline = time.monotonic() + PATIENCE
    while wanted not in (text := client.get("/metrics").text) and time.monotonic() < deadline:
        time.sleep(0.02)
    return text


def test_a_busy_server_turns_others_away_before_it_reads_them() -> None:
    app, tried = application(configured(access=AccessConfig(open_requests=1)))
    with serving_on_a_port(app) as address, client_of(address) as client:
        with client.stream("POST", "/v1/try/stream") as answer:
            pieces = answer.iter_raw()
            assert next(pieces) == b"data: 1\n\n"
            status, headers, body = raw(address, POST + b"Content-Length: 1000\r\n\r\n")  # the body never comes
            assert status == 503 and int(headers["retry-after"]) >= 1
            assert json.loads(body)["error"]["code"] == "overloaded" and tried.bodies == []
            assert client.get("/health").status_code == client.get("/metrics").status_code == 200, "these need no place"
            tried.go_on.set()
            assert list(pieces) == [b"data: 2\n\n"]
        assert FREE in eventually(client, FREE)
        assert client.post("/v1/try/echo/it").status_code == 200


def test_web_pages_of_other_origins_cannot_use_a_server_without_keys(server: tuple[Address, Tried]) -> None:
    with client_of(server[0]) as client:
        own = f"http://{server[0][0]}:{server[0][1]}"
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": own}, 200),
            ({"Origin": "https://behind.proxy", "Sec-Fetch-Site": "same-origin"}, 200),
            ({}, 200),
        ):
            answer = client.post("/v1/try/echo/it", headers=headers)
            assert answer.status_code == status, headers
            assert "access-control-allow-origin" not in answer.headers
            if status == 403:
                assert error_of(answer)["code"] == "origin_not_allowed"


def test_origins_that_are_listed_may_call_and_read() -> None:
    app, _ = application(configured(access=AccessConfig(origins=("https://friend.example",))))
    with serving_on_a_port(app) as address, client_of(address) as client:
        friend = {"Origin": "https://friend.example"}
        asked = friend | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert (
            client.options("/v1/try/echo/it", headers=asked).headers["access-control-allow-origin"] == friend["Origin"]
        )
        answer = client.post("/v1/try/echo/it", headers=friend)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == friend["Origin"]
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        missing = client.post("/v1/nothing", headers=friend)
        assert missing.headers["access-control-allow-origin"] == friend["Origin"], "errors can be read too"
        assert client.post("/v1/try/echo/it", headers={"Origin": "https://evil.example"}).status_code == 403


def test_websockets_are_not_spoken_here(server: tuple[Address, Tried]) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    )
    status, _, _ = raw(server[0], b"GET /v1/try/echo/it HTTP/1.1\r\nHost: h\r\n" + upgrade)
    assert status in (400, 403, 405)
