"""A real server on this machine that misbehaves on purpose: what is retried, what is not, and what never leaks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polite_flamingo.endpoints import connection
from polite_flamingo.endpoints.answers import first_choice
from polite_flamingo.endpoints.client import EndpointDown, Refused, Server, ServerConfig
from polite_flamingo.endpoints.config import ServersConfig
from polite_flamingo.endpoints.responses import usage_of
from tests.support.patience import PATIENCE

QUICK = ServerConfig(timeout=PATIENCE, attempts=3, pause=0.0, longest_pause=0.01, api_key_variable="TEST_KEY")


class Misbehaving(ThreadingHTTPServer):
    """Does what the plan says for each request in turn, then echoes; remembers what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Misbehaving

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.paths.append("GET " + self.path)
        self.reply(200, {"moved": True})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.paths.append(self.path)
            step = self.server.plan.pop(0) if self.server.plan else "echo"
        if step == "echo":
            self.reply(200, {"echo": body})
        elif step == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif step == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"echo"')
        elif step == "no JSON":
            self.reply_bytes(200, b"<html>busy</html>")
        elif step == "string":
            self.reply_bytes(200, b'"busy"')
        elif step == "drip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                time.sleep(0.02)
        elif step == "tell":
            self.reply(400, {"error": f"you sent {self.headers['Authorization']}"})
        elif step == "tell late":
            self.reply(400, {"error": f"{'x' * 185} {self.headers['Authorization']}"})
        elif step == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/elsewhere")
            self.end_headers()
        else:
            status, _, after = step.partition(" after ")
            self.reply(int(status), {"error": {"message": "the server\nsays why"}}, after)

    def reply(self, status: int, answer: Any, after: str = "") -> None:
        self.reply_bytes(status, json.dumps(answer).encode(), after)

    def reply_bytes(self, status: int, answer: bytes, after: str = "") -> None:
        self.send_response(status)
        if after:
            self.send_header("Retry-After", after)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def misbehaving() -> Iterator[Misbehaving]:
    server = Misbehaving()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "trouble", ["429", "500", "503 after 0", "hang up", "half", "no JSON", "string", "429 after soon"]
)
def test_what_may_pass_is_tried_again(misbehaving: Misbehaving, trouble: str) -> None:
    misbehaving.plan = [trouble, trouble]
    assert Server(misbehaving.url, QUICK).post("/ask", {"n": 1}, dict) == {"echo": {"n": 1}}
    assert misbehaving.seen == [{"n": 1}] * 3 and misbehaving.paths == ["/v1/ask"] * 3


def test_attempts_end_and_the_reason_is_told(misbehaving: Misbehaving) -> None:
    misbehaving.plan = ["503"] * 3
    with pytest.raises(Refused, match="3 attempts: HTTP 503: the server says why"):
        Server(misbehaving.url, QUICK).post("/ask", {}, dict)


def test_what_the_server_refuses_is_asked_once(misbehaving: Misbehaving) -> None:
    misbehaving.plan = ["400"]
    with pytest.raises(Refused, match=r"^HTTP 400: the server says why$"):
        Server(misbehaving.url, QUICK).post("/ask", {}, dict)
    assert len(misbehaving.seen) == 1


def test_a_wrong_address_is_told_at_once(misbehaving: Misbehaving) -> None:
    misbehaving.plan = ["404"]
    with pytest.raises(EndpointDown, match=r"/v1 knows no /ask, or not this model \(HTTP 404: the server says why\)"):
        Server(misbehaving.url, QUICK).post("/ask", {}, dict)


def test_a_server_that_drips_is_not_waited_for(misbehaving: Misbehaving) -> None:
    misbehaving.plan = ["drip"]
    quick = ServerConfig(timeout=0.3, attempts=50, pause=0.0, longest_pause=0.0)  # the good answer has as little time
    assert Server(misbehaving.url, quick).post("/ask", {}, dict) == {"echo": {}}


def test_an_endless_answer_is_cut(misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BYTES", 10)
    misbehaving.plan = ["drip"]
    with pytest.raises(Refused, match="response"):
        Server(misbehaving.url, ServerConfig(attempts=1)).post("/ask", {}, dict)


def test_the_key_is_sent_and_told_to_nobody(misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a secret key")
    misbehaving.plan = ["echo", "tell", "401", "redirect"]
    server = Server(misbehaving.url, QUICK)
    server.post("/ask", {}, dict)
    assert misbehaving.keys == ["Bearer a secret key"]
    with pytest.raises(Refused, match=r"HTTP 400: you sent Bearer \(the key\)") as told:
        server.post("/ask", {}, dict)
    with pytest.raises(EndpointDown, match="set the environment variable TEST_KEY") as rejected:
        server.post("/ask", {}, dict)
    with pytest.raises(EndpointDown, match="set the environment variable TEST_KEY"):
        server.post("/ask", {}, dict)
    assert len(misbehaving.seen) == 3, "nothing more is sent to a server that is down"
    with pytest.raises(EndpointDown, match="HTTP 302") as redirected:
        Server(misbehaving.url, QUICK).post("/ask", {}, dict)
    assert "secret" not in f"{rejected.value}{redirected.value}{told.value}{server.config}"
    assert not any(path.startswith("GET") for path in misbehaving.paths), "no redirect is followed"


def test_a_message_is_not_cut_in_the_key(misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a secret key")
    misbehaving.plan = ["tell late"]
    for read in (dict, lambda _: first_choice({"error": f"{'x' * 190} a secret key"})):
        with pytest.raises(Refused, match="xxx") as told:
            Server(misbehaving.url, QUICK).post("/ask", {}, read)
        assert "a secr" not in str(told.value)


@pytest.mark.parametrize(
    "said",
    [
        {"choices": ["text"]},
        {"choices": [None]},
        {"choices": [{"message": {"content": ["text"]}}]},
        {"choices": [{"message": {"content": 5}}]},
    ],
)
def test_an_answer_of_another_form_is_one(misbehaving: Misbehaving, said: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="not an answer of this API"):
        Server(misbehaving.url, QUICK).post("/ask", said, lambda answer: first_choice(answer["echo"]))


@pytest.mark.parametrize("value", ["no number", "9" * 5000, 10**400, None])
def test_a_number_of_another_form_is_one_too(misbehaving: Misbehaving, value: Any) -> None:
    with pytest.raises(Refused, match="not an answer of this API"):
        Server(misbehaving.url, QUICK).post("/ask", {"n": value}, lambda answer: int(float(answer["echo"]["n"])))


def test_usage_that_cannot_be_is_ignored() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 50}}
    assert usage_of({"usage": {"prompt_tokens": 5, "completion_tokens": True, **details}}) == {
        "prompt_tokens": 5, "cached_tokens": 5,
    }  # fmt: skip
    assert usage_of({"usage": {"prompt_tokens": 10**30, "completion_tokens": "3"}}) == {}
    assert usage_of({"usage": [1]}) == usage_of({"usage": {"prompt_tokens": -5}}) == {}


@pytest.mark.parametrize("key", ["a secret\nkey", "a secret\rkey", "a “secret” key"])
def test_a_key_that_none_can_be_is_not_shown(
    misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(EndpointDown, match="TEST_KEY holds what no key has") as told:
        Server(misbehaving.url, QUICK).post("/ask", {}, dict)
    assert "secret" not in str(told.value) and not misbehaving.seen


def test_a_key_in_the_place_of_a_variable_or_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="must name an environment variable") as variable:
        ServerConfig(api_key_variable="sk-a-secret")
    with pytest.raises(ValueError, match="must not hold a user or a key") as address:
        ServersConfig(urls=("http://me:secret@127.0.0.1/v1",))
    with pytest.raises(ValueError, match="must not hold a user or a key") as query:
        ServersConfig(urls=("http://127.0.0.1/v1?key=secret",))
    assert "secret" not in f"{variable.value}{address.value}{query.value}"


def test_without_a_key_none_is_sent(misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    Server(misbehaving.url, QUICK).post("/ask", {}, dict)
    assert misbehaving.keys == [None]


def test_one_who_fails_again_and_again_is_down() -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        config = ServerConfig(attempts=2, pause=0.0, longest_pause=0.0, give_up_after=3)
        server = Server(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", config)
        for _ in range(2):
            with pytest.raises(Refused, match="refused"):
                server.post("/ask", {}, dict)
        with pytest.raises(EndpointDown, match=r"failed 3 requests in a row.*Is it running"):
            server.post("/ask", {}, dict)


def test_a_success_between_failures_is_no_row_of_them(misbehaving: Misbehaving) -> None:
    misbehaving.plan = ["500", "echo", "500", "echo"]
    server = Server(misbehaving.url, ServerConfig(attempts=1, give_up_after=2))
    for trouble in (True, False, True, False):
        if trouble:
            with pytest.raises(Refused):
                server.post("/ask", {}, dict)
        else:
            server.post("/ask", {}, dict)


def test_nonsense_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="http://"):
        Server("ftp://host/v1", QUICK)
    with pytest.raises(ValueError, match="timeout > 0"):
        ServerConfig(timeout=0)
    with pytest.raises(ValueError, match="at least 1"):
        ServerConfig(attempts=0)
