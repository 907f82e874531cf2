"""The robot behind a server: what is sent, what is made of the answer, and what a bad server can do to us."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig, EndpointConfig, Shares
from polite_flamingo.distortion.endpoint_speaker import EndpointSpeaker
from polite_flamingo.distortion.llm_prompts import PRAISE, prefill
from polite_flamingo.distortion.pairs import distort
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.endpoints.client import EndpointDown
from polite_flamingo.endpoints.connection import MAX_BYTES
from polite_flamingo.prompts import SYSTEM
from polite_flamingo.sample import BadSample, Sample
from tests.support.good_responses import good
from tests.support.patience import PATIENCE

KEY = "sk-a-secret-of-this-test"


class Server(ThreadingHTTPServer):
    """Does in turn what `script` says for a request, the last word of it for ever; remembers what it was sent."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *script: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.crowded = threading.Event()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some of these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.paths.append(self.path)
            self.server.headers.append(dict(self.headers))
        self.act(self.server.script[min(number, len(self.server.script) - 1)], body)

    def act(self, word: str, body: dict[str, Any]) -> None:
        if word == "hang":
            self.server.closing.wait(2 * PATIENCE)
        elif word == "trickle":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.wait(0.02):
                self.wfile.write(b" ")
        elif word == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"te')
        elif word == "slam":
            self.connection.close()
        elif word == "crowd":
            self.crowd()
            self.answer(json.dumps(said("short", body)))
        elif word.isdecimal():
            self.send_response(int(word))
            self.send_header("Retry-After", "0" if word == "503" else "later")
            if word == "302":
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(f"no: {self.headers.get('Authorization')}".encode())
        elif word.startswith("raw "):
            self.answer(word[4:])
        elif word == "endless":
            self.answer("x" * (MAX_BYTES + 100))
        elif word.startswith("template "):
            self.templated(word.split(" ", 2)[1], word.split(" ", 2)[2], body)
        elif word.startswith("length "):
            self.answer(json.dumps(said(word[7:], body, "length")))
        else:
            self.answer(json.dumps(said(word, body)))

    def crowd(self) -> None:
        """Nobody is answered before somebody else asks, too; then a moment is left for one too many."""
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            if server.at_once > 1:
                server.crowded.set()
        server.crowded.wait(PATIENCE)
        server.closing.wait(0.05)
        with server.lock:  # before the answer: who has it may ask again at once
            server.at_once -= 1

    def templated(self, kind: str, text: str, body: dict[str, Any]) -> None:
        """A server of chats whose template, or whose protocol, does not know everything."""
        roles = [message["role"] for message in body["messages"]]
        if kind == "no-system" and "system" in roles:
            return self.refuse(400, "System role not supported")
        if kind == "no-begun" and "continue_final_message" in body:
            return self.refuse(422, "extra fields not permitted: continue_final_message")
        if kind == "jinja" and "system" in roles:
            return self.refuse(500, "Jinja Exception: System role not supported")
        begun = body["messages"][-1]["content"] if kind == "returns-begun" and roles[-1] == "assistant" else ""
        return self.answer(json.dumps(said(f"{begun}{text}", body)))

    def refuse(self, status: int, why: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": why}}).encode())

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def said(text: str, body: dict[str, Any], why: str = "stop") -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": why, **choice}]}


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(*script: str) -> Server:
        server = Server(*script)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


def config(server: Server, **changes: Any) -> DistortionConfig:
    settings = {"attempts": 3, "pause": 0.01, "longest_pause": 0.05, "timeout": PATIENCE, **changes}
    endpoint = EndpointConfig(url=server.url, model="robot", **settings)
    return DistortionConfig(speaker="endpoint", shares=Shares(llm=1, text=0, captions_and_boxes=0), endpoint=endpoint)


def request(number: int = 0, command: str = "") -> SpeakerRequest:
    return SpeakerRequest(
        seed=str(number), instruction="Who is it?", response="It is Anna, who lives here.", command=command
    )


def test_the_robots_words_are_begun_and_continued_up_to_the_quotation_mark(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve('Anna. "And more', "  anna lives here \n")
    speaker = EndpointSpeaker(config(server, concurrency=1))
    assert speaker.say([request(1, "typos"), request(2)]) == ["Anna.", "anna lives here"]
    assert server.paths == ["/v1/completions"] * 2
    first, second = server.bodies
    assert first["prompt"] == (
        f"{SYSTEM}\n### Human: Who is it?\n### Assistant: It is Anna, who lives here.\n### Human: {PRAISE}"
        f"\n### Assistant: {prefill('typos')}"
    )
    assert COMMANDS["typos"] in first["prompt"] and COMMANDS["typos"] not in second["prompt"]
    assert first["prompt"].endswith('"') and '"' in first["stop"]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("robot", 0.7, 256)
    assert first["seed"] != second["seed"], "each by its own"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "reply",
    [
        'Anna"',
        f'{prefill()}Anna"',
        'template returns-begun Anna"',
        'My shortest rewriting of it, and of low quality, is: "Anna". Done.',
        'Of course: "Anna"',
        "“Anna” is my summary",
        '<think>Who lives "here"?</think>Anna"',
    ],
)
def test_a_server_of_chats_continues_the_robots_turn(serve: Any, reply: str) -> None:
    server = serve(reply)
    speaker = EndpointSpeaker(config(server, api="chat"))
    assert speaker.say([request()]) == ["Anna"] and speaker.wording == "begun turn"
    assert server.paths == ["/v1/chat/completions"] * 2, "it is tried out once before"
    body = server.bodies[1]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert body["messages"][-1]["content"] == prefill() and "Authorization" not in server.headers[0]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    speaker.say([request(2)])
    assert len(server.bodies) == 3, "and not again"


@pytest.mark.parametrize(
    ("server_says", "wording", "roles"),
    [
        ('template no-system Anna"', "begun turn, system text in the first turn", "user assistant user assistant"),
        ('template jinja Anna"', "begun turn, system text in the first turn", "user assistant user assistant"),
        ("template no-begun Anna", "asked plainly", "user"),
        ("Anna", "asked plainly", "user"),  # the fields were ignored: a new turn was begun, and no quotation closed
        ("Note: “Anna”", "begun turn", "system user assistant user assistant"),
    ],
)
def test_a_server_of_chats_is_spoken_to_as_it_can_be(serve: Any, server_says: str, wording: str, roles: str) -> None:
    server = serve(server_says)
    speaker = EndpointSpeaker(config(server, api="chat", attempts=1))
    assert speaker.try_out() == wording
    tried = len(server.bodies)
    assert speaker.say([request(1, "typos"), request(2)]) == ["Anna"] * 2
    assert len(server.bodies) == tried + 2
    said_to = server.bodies[-1]["messages"]
    assert " ".join(message["role"] for message in said_to) == roles
    assert "It is Anna, who lives here." in json.dumps(said_to)
    if wording.endswith("first turn"):
        assert said_to[0]["content"] == f"{SYSTEM}\n\nWho is it?"
    if wording == "asked plainly":
        assert any("put in several spelling mistakes" in json.dumps(body) for body in server.bodies[-2:])
    (row,) = distort([good(1)], replace(config(server, api="chat", attempts=1), command_share=0))
    assert isinstance(row, Sample) and row.provenance["distortion"]["wording"] == wording


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("404", r"/v1 knows no /(chat/)?completions, or not this model \(HTTP 404"),
        ("401", "HTTP 401.*OPENAI_API_KEY"),
        ("302", "redirects"),
        ("400", r"does not answer as it should: HTTP 400: no"),
        ("503", r"does not answer as it should: 2 attempts: HTTP 503"),
        ("raw <html>A web page", r"not JSON: '<html>A web page'. Is it running"),
        ('raw {"choices": []}', "not an answer of this API"),
        ("slam", "Is it running"),
    ],
)
def test_what_is_wrong_with_a_server_shows_before_work_begins(
    serve: Any, api: str, trouble: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = serve(trouble)
    with pytest.raises(EndpointDown, match=message) as raised:
        EndpointSpeaker(config(server, api=api)).try_out()
    assert "\n" not in str(raised.value)
    if api == "completions" and trouble == "404":
        assert "takes --distortion.endpoint.api chat" in str(raised.value)


@pytest.mark.parametrize("end", ["length", "content_filter"])
def test_what_did_not_come_to_its_end_says_why(serve: Any, end: str) -> None:
    cut = json.dumps({"choices": [{"finish_reason": end, "text": "Anna lives in"}]})
    (text,) = EndpointSpeaker(config(serve(f"raw {cut}"))).say([request()])
    assert isinstance(text, Unfinished) and (text, text.why) == ("", end)


def test_a_text_that_was_cut_before_its_end_is_no_answer(serve: Any) -> None:
    speaker = EndpointSpeaker(config(serve("length Anna lives in the", 'length Anna" and so', "length")))
    assert [speaker.say([request()])[0] for _ in range(2)] == ["", "Anna"]


@pytest.mark.parametrize(
    "trouble",
    ["429", "500", "503", "cut", "slam", "raw no json", 'raw {"choices": []}', 'raw {"choices": [{"text": 5}]}',
     "raw null", "endless", "raw " + "[" * 5000],
)  # fmt: skip
def test_trouble_that_passes_costs_only_another_attempt(serve: Any, trouble: str) -> None:
    server = serve(trouble, trouble, "Anna")
    assert EndpointSpeaker(config(server)).say([request()]) == ["Anna"]
    assert len(server.bodies) == 3
    assert len({json.dumps(body) for body in server.bodies}) == 1, "the same request again"


@pytest.mark.parametrize("trouble", ["hang", "trickle"])
def test_a_server_that_does_not_come_to_an_end_is_left(serve: Any, trouble: str) -> None:
    """It would hang for minutes, and trickle for ever. The good answer has as little time, and so many tries."""
    server = serve(trouble, "Anna")
    assert EndpointSpeaker(config(server, timeout=0.3, attempts=50)).say([request()]) == ["Anna"]


def test_trouble_that_does_not_pass_fails_the_row_and_says_why(serve: Any) -> None:
    (answer,) = EndpointSpeaker(config(serve("500"))).say([request()])
    assert isinstance(answer, BadSample) and answer.reason == "distortion_failed"
    assert "3 attempts: HTTP 500" in answer.detail


def test_what_the_server_will_never_take_is_not_sent_again(serve: Any) -> None:
    server = serve("413", "Anna")
    speaker = EndpointSpeaker(config(server, concurrency=1))
    first, second = speaker.say([request(1), request(2)])
    assert isinstance(first, BadSample) and "HTTP 413" in first.detail
    assert second == "Anna" and len(server.bodies) == 2


@pytest.mark.parametrize("status", ["401", "403", "404", "302"])
def test_a_server_that_refuses_us_ends_the_work_at_once_and_the_key_stays_secret(
    serve: Any, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server = serve(status)
    speaker = EndpointSpeaker(config(server, api_key_variable="MY_KEY", concurrency=2))
    with pytest.raises(EndpointDown, match=f"HTTP {status}") as raised:
        speaker.say([request(n) for n in range(20)])
    assert KEY not in str(raised.value) and KEY not in repr(speaker.__dict__.get("_config"))
    assert len(server.bodies) <= 2
    with pytest.raises(EndpointDown):
        speaker.say([request()])
    assert len(server.bodies) <= 2, "nothing more is sent"


def test_a_server_that_is_down_is_given_up(serve: Any) -> None:
    server = serve("hang")
    server.shutdown()
    server.server_close()
    speaker = EndpointSpeaker(config(server, give_up_after=5))
    with pytest.raises(EndpointDown, match="failed 5 requests in a row, each after 3 attempts"):
        speaker.say([request(n) for n in range(12)])


def test_no_more_requests_are_under_way_than_allowed(serve: Any) -> None:
    server = serve("crowd")
    answers = EndpointSpeaker(config(server, concurrency=3)).say([request(n) for n in range(12)])
    assert answers == ["short"] * 12
    assert 2 <= server.most_at_once <= 3


def test_pairs_come_of_a_server_that_misbehaves_now_and_then(serve: Any) -> None:
    """Whatever it does, each row is a pair or has a reason, in its place; either of two may meet every trouble."""
    server = serve("Anna", "500", "cut", "length Ann", "413", "raw {", "ok then", "429", "", "robot talk")
    rows = distort([good(n) for n in range(12)], replace(config(server, concurrency=2, attempts=9), draws=9))
    assert [row.key for row in rows] == [good(n).key for n in range(12)]
    outcome = Counter(row.response if isinstance(row, Sample) else row.reason for row in rows)
    assert outcome["robot talk"] > 5 and outcome["distortion_failed"] == 1, outcome
    facts = [row.provenance["distortion"] for row in rows if isinstance(row, Sample)]
    assert {fact["speaker"] for fact in facts} == {"robot"}
