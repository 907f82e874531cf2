"""An endpoint as a contestant, against a real server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.endpoints.client import EndpointDown, ServerConfig
from polite_flamingo.evaluation.endpoint_contestant import EndpointContestant
from polite_flamingo.sample import BadSample, Image, Sample, Turn
from tests.support.patience import PATIENCE

QUICK = ServerConfig(timeout=PATIENCE, attempts=1, pause=0.0, concurrency=2, give_up_after=2)


def sample(name: str, instruction: str = "What is it?", images: tuple[Image, ...] = ()) -> Sample:
    return Sample(
        key=name, dataset="d", task="vqa", images=images, turns=(Turn(instruction=instruction, response="Answer: x"),)
    )


class Talker(BaseHTTPRequestHandler):
    """Answers "about QUESTION"; a question may ask for trouble."""

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)  # type: ignore[attr-defined]
        asked = body["messages"][0]["content"]
        text = asked if isinstance(asked, str) else " ".join(part.get("text", "") for part in asked)
        refuse_all = getattr(self.server, "refuse_all", False)
        status = 500 if "fail" in text else 400 if "refuse" in text or refuse_all else 200
        said: Any = None if "say nothing" in text else f" about {text.strip()}\n"
        finish = "length" if "cut" in text else "content_filter" if "filter" in text else "stop"
        choice = {"message": {"content": said}, "finish_reason": finish}
        answer = {"choices": [choice]} if "no choice" not in text else {"choices": []}
        found = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Talker)
    found.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def contestant(server: ThreadingHTTPServer, config: ServerConfig = QUICK) -> EndpointContestant:
    return EndpointContestant("a-model", f"http://127.0.0.1:{server.server_port}/v1", max_tokens=7, config=config)


def test_answers_come_in_order_and_failures_in_their_places(server: ThreadingHTTPServer) -> None:
    asked = [sample("a"), sample("b", "refuse"), sample("c", "say nothing"), sample("d", "no choice"), sample("e", "?")]
    found = contestant(server).answer(asked)
    assert [one if isinstance(one, str) else one.reason for one in found if one is not None] == [
        "about What is it?", "answering_failed", "answering_failed", "answering_failed", "about ?",
    ]  # fmt: skip
    assert isinstance(found[1], BadSample) and "b: HTTP 400" in found[1].detail
    body = server.seen[0]  # type: ignore[attr-defined]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("a-model", 7, 0)


def test_the_annotation_is_not_shown(server: ThreadingHTTPServer) -> None:
    contestant(server).answer([sample("a")])
    assert "Answer: x" not in json.dumps(server.seen)  # type: ignore[attr-defined]


def test_a_broken_picture_fails_its_own_sample(server: ThreadingHTTPServer) -> None:
    broken = sample("b", "<image>What?", (Image(extension="png", data=b"no picture"),))
    found = contestant(server).answer([sample("a"), broken])
    assert found[0] == "about What is it?"
    assert isinstance(found[1], BadSample) and found[1].reason == "corrupt_image"


def test_a_server_that_goes_down_keeps_what_it_said_and_is_asked_no_more(server: ThreadingHTTPServer) -> None:
    asked = [sample("a"), *(sample(f"f{n}", "fail") for n in range(4)), sample("z")]
    one = contestant(server, ServerConfig(timeout=PATIENCE, attempts=1, pause=0.0, concurrency=1, give_up_after=2))
    found = one.answer(asked)
    assert found[0] == "about What is it?" and isinstance(found[1], BadSample) and found[2:] == [None] * 4
    assert isinstance(one.down, EndpointDown) and len(server.seen) == 3  # type: ignore[attr-defined]


def test_a_server_that_never_answered_is_an_error(server: ThreadingHTTPServer) -> None:
    with pytest.raises(EndpointDown):
        contestant(server).answer([sample(f"f{n}", "fail") for n in range(6)])


def test_what_was_cut_or_withheld_says_so(server: ThreadingHTTPServer) -> None:
    found = contestant(server).answer([sample("a", "cut"), sample("b", "filter"), sample("c", "say nothing, cut")])
    assert [(one, one.why) for one in found if isinstance(one, Unfinished)] == [
        ("about cut", "length"), ("about filter", "content_filter"), ("", "length"),
    ]  # fmt: skip


def test_the_first_answer_is_asked_for_alone_and_shows_whether_the_server_is_at_fault(
    server: ThreadingHTTPServer,
) -> None:
    one = contestant(server)
    assert one.try_out(sample("a")) == "about What is it?" and len(server.seen) == 1  # type: ignore[attr-defined]
    refused = one.try_out(sample("b", "refuse"))
    assert isinstance(refused, BadSample) and "HTTP 400" in refused.detail, "something simple was answered"
    assert len(server.seen) == 3  # type: ignore[attr-defined]
    broken = one.try_out(sample("c", "<image>What?", (Image(extension="png", data=b"no picture"),)))
    assert isinstance(broken, BadSample) and broken.reason == "corrupt_image"
    server.refuse_all = True  # type: ignore[attr-defined]
    with pytest.raises(EndpointDown, match=r"does not answer as it should: HTTP 400"):
        one.try_out(sample("a"))
