"""Answers that fail before their first piece or in the middle, come too late, or have no reader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest

from serving.backends.base import Chunk, GenerationRequest
from serving.config import LimitsConfig
from serving.errors import ApiError, overloaded
from serving.server.app import create_app
from tests.support import virtual_clock
from tests.support.chat_service import CHAT, user
from tests.support.patience import PATIENCE
from tests.support.stub_service import StubBackend, configured, serving_on_a_port

Script = Sequence[Chunk | Exception | None]
"""What comes of an ask, in order; None never comes."""


class Scripted(StubBackend):
    """Counts the streams that nobody closed."""

    def __init__(self, *scripts: Script):
        super().__init__()
        self._scripts, self.open, self.asked = list(scripts), 0, 0

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        script = self._scripts.pop(0)
        self.open, self.asked = self.open + 1, self.asked + 1
        try:
            for one in script:
                if one is None:
                    await asyncio.Event().wait()
                elif isinstance(one, Exception):
                    raise one
                else:
                    yield one
        finally:
            self.open -= 1


def asked(*scripts: Script, seconds: float = 20.0, **changes: Any) -> tuple[httpx2.Response, Scripted]:
    backend = Scripted(*scripts)
    app = create_app(configured(limits=LimitsConfig(seconds=seconds)), backend)
    body = {"model": CHAT, "messages": [user("Hi")]} | changes

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/v1/chat/completions", json=body)

    answer = virtual_clock.run(ask())
    assert not backend.open, "every stream is closed"
    return answer, backend


def events(answer: httpx2.Response) -> list[Any]:
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


PIECE, END = Chunk("He\u2028llo", (1, 2), "", 5), Chunk("", (3,), "stop", 5)
BUSY = overloaded("no room", retry_after=3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_what_fails_before_its_first_piece_has_a_status_of_its_own(stream: bool, n: int) -> None:
    answer, _ = asked([BUSY], [None], stream=stream, n=n)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json()["error"]["code"] == "overloaded"


@pytest.mark.parametrize("n", [1, 2])
def test_what_fails_in_the_middle_of_a_stream_ends_it_with_the_error(n: int) -> None:
    answer, _ = asked([PIECE, BUSY], [PIECE, None], stream=True, n=n)
    found = events(answer)
    assert found[-1] == BUSY.body() and "[DONE]" not in found
    assert found[n]["choices"][0]["delta"]["content"] == PIECE.text


def test_what_nobody_expected_is_told_without_what_it_says() -> None:
    answer, _ = asked([RuntimeError("a secret")], stream=True)
    assert answer.status_code == 500 and "secret" not in answer.text
    backend = Scripted([PIECE, RuntimeError("a secret")])
    with serving_on_a_port(create_app(configured(), backend)) as (host, port):  # which cuts the connection then
        client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
        with client, pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(model=CHAT, messages=[user("Hi")], stream=True))
    assert caught.value.code == "internal_error" and "secret" not in str(caught.value.body)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_given_up(stream: bool) -> None:
    answer, _ = asked([None], seconds=0.05, stream=stream)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    answer, _ = asked([PIECE, None], seconds=0.05, stream=stream)
    error = events(answer)[-1]["error"] if stream else answer.json()["error"]
    assert error["code"] == "timeout" and "0.05 s" in error["message"]


@pytest.mark.parametrize("status", [500, 504])
def test_openai_s_client_asks_again_but_not_for_what_took_too_long(status: int) -> None:
    backend = Scripted([ApiError(status, "it went wrong", "server_error")], [PIECE, END])
    with serving_on_a_port(create_app(configured(), backend)) as (host, port):
        client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=1, timeout=PATIENCE)
        with client, suppress(openai.InternalServerError):
            answer = client.chat.completions.create(model=CHAT, messages=[user("Hi")])
            assert status == 500 and answer.choices[0].message.content == PIECE.text
    assert backend.asked == (2 if status == 500 else 1), "requests that reached the engines"


@pytest.mark.parametrize("last", [[Chunk("", (), "cancelled", 5)], []])
def test_an_engine_that_shuts_down_is_no_end_of_an_answer(last: list[Chunk]) -> None:
    answer, _ = asked([PIECE, *last])
    assert answer.status_code == 503 and "retry-after" in answer.headers
    answer, _ = asked([PIECE, *last], stream=True)
    assert events(answer)[-1]["error"]["code"] == "overloaded"


def test_choices_come_as_they_come_and_each_has_its_end() -> None:
    answer, _ = asked(
        [PIECE, END], [Chunk("", (1,), "length", 5)], stream=True, n=2, stream_options={"include_usage": True}
    )
    found = events(answer)
    assert found[-1] == "[DONE]" and found[-2]["usage"]["completion_tokens"] == 4 and found[-2]["choices"] == []
    ends = {one["choices"][0]["index"]: one["choices"][0]["finish_reason"] for one in found[:-2]}
    assert ends == {0: "stop", 1: "length"}


def test_a_client_that_stops_reading_is_left_at_the_time_limit() -> None:
    backend = Scripted([PIECE] * 100)
    app = create_app(configured(limits=LimitsConfig(seconds=0.05)), backend)
    body = json.dumps({"model": CHAT, "messages": [user("Hi")], "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")], "asgi": {"version": "3.0"},
        "scheme": "http", "server": ("x", 80), "client": ("y", 1), "root_path": "",
    }  # fmt: skip

    async def call() -> None:
        with suppress(ApiError):
            await app(scope, receive, send)

    virtual_clock.run(call())
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"] and not backend.open
