"""Real servers on this machine: who is asked, who is asked instead, and what ends the work."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from polite_flamingo.endpoints.answers import first_choice
from polite_flamingo.endpoints.client import EndpointDown, Refused, ServerConfig
from polite_flamingo.endpoints.servers import Servers
from tests.support.fake_chat import MODEL, POLITE, FakeChat, fake_chat
from tests.support.patience import PATIENCE, wait_until

QUICK = ServerConfig(timeout=PATIENCE, attempts=3, pause=0.0, longest_pause=0.02, concurrency=4)
ALIVE = "polite"


def body(text: str = ALIVE) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"Annotation: {text}"}]}


def ask(servers: Servers, text: str = ALIVE) -> str:
    return servers.post("/chat/completions", body(text), first_choice)


@pytest.fixture
def two() -> Iterator[list[FakeChat]]:
    with ExitStack() as stack:
        yield [stack.enter_context(fake_chat()) for _ in range(2)]


def test_connections_are_kept_and_used_again(two: list[FakeChat]) -> None:
    servers = Servers([two[0].url], QUICK)
    assert [ask(servers, str(n)) for n in range(20)] == [f"{POLITE}{n}." for n in range(20)]
    assert (two[0].connections, len(two[0].bodies)) == (1, 20)


def test_the_server_with_the_least_to_do_is_asked(two: list[FakeChat]) -> None:
    slow, quick = two
    held = threading.Event()
    slow.hold = lambda: held.wait(PATIENCE)
    servers = Servers([slow.url, quick.url], QUICK)
    with ThreadPoolExecutor(servers.concurrency) as threads:
        asked = [threads.submit(ask, servers, str(n)) for n in range(40)]
        wait_until(lambda: len(quick.bodies) >= 36)  # the slow one has four, and gets no fifth
        held.set()
        assert [one.result() for one in asked] == [f"{POLITE}{n}." for n in range(40)]
    assert slow.peak <= 4 and quick.peak <= 4 and len(slow.bodies) + len(quick.bodies) == 40


def test_another_server_answers_what_one_cannot(two: list[FakeChat]) -> None:
    broken, good = two
    broken.answer = lambda text: 1 / 0  # type: ignore[assignment, return-value]
    servers = Servers([broken.url, good.url], QUICK)
    assert [ask(servers, str(n)) for n in range(10)] == [f"{POLITE}{n}." for n in range(10)]
    assert broken.bodies, "the broken one was never asked: the test shows nothing"


def test_a_dead_server_is_left_alone_while_another_answers(two: list[FakeChat]) -> None:
    dead, good = two
    dead.die()
    servers = Servers([dead.url, good.url], ServerConfig(timeout=PATIENCE, concurrency=2, pause=100, longest_pause=100))
    assert servers.try_out("/chat/completions", body(), first_choice).keys() == {dead.url}
    assert [ask(servers, str(n)) for n in range(10)] == [f"{POLITE}{n}." for n in range(10)]
    assert servers.metrics()["failed_tries"] == 1, "it is asked once, and then not before its pause is over"


def test_a_server_that_dies_and_comes_back_costs_no_request() -> None:
    with ExitStack() as first:
        server = first.enter_context(fake_chat())
        servers = Servers([server.url], QUICK, patience=PATIENCE)
        ask(servers)
        first.close()
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(ask, servers, str(n)) for n in range(8)]
            wait_until(lambda: servers.metrics()["failed_tries"] > 3 * 8)  # far more tries than a request has
            assert not any(one.done() for one in asked)
            with fake_chat(port=server.server_port):
                assert [one.result() for one in asked] == [f"{POLITE}{n}." for n in range(8)]


def test_patience_ends() -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        servers = Servers([url], QUICK, patience=0.0)
        with pytest.raises(EndpointDown, match=r"no answer for 0 s; the last: .*refused.*Is it running.*resumes"):
            ask(servers)
        with pytest.raises(EndpointDown, match="no server answers"):
            Servers([url], QUICK).try_out("/chat/completions", body(), first_choice)


def test_a_busy_server_gets_fewer_requests_and_then_more_again(two: list[FakeChat]) -> None:
    server = two[0]
    servers = Servers([server.url], QUICK)
    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(lambda n: ask(servers, f"{n} [429 x2]"), range(8)))) == 8
    assert servers.metrics() == {"failed_tries": 16, "requests_at_once": servers.metrics()["requests_at_once"]}
    assert servers.metrics()["requests_at_once"] < 4
    for n in range(20):
        ask(servers, str(n))
    assert servers.metrics()["requests_at_once"] == 4


def test_tries_are_used_up_by_errors_alone(two: list[FakeChat]) -> None:
    servers = Servers([two[0].url], QUICK)
    assert ask(servers, "[503 x7]").startswith(POLITE)
    assert ask(servers, "[500 x2]").startswith(POLITE)
    with pytest.raises(Refused, match="3 attempts: HTTP 500: the server says why"):
        ask(servers, "[500]")
    with pytest.raises(Refused, match="3 attempts: the response is not JSON: '<html>busy"):
        ask(servers, "[html]")
    assert ask(servers, "[half x2]").startswith(POLITE)


def test_a_request_that_only_meets_busy_servers_fails_alone_while_others_are_answered(two: list[FakeChat]) -> None:
    now = 0.0
    quick = ServerConfig(timeout=PATIENCE, pause=0.0, concurrency=64)
    servers = Servers([two[0].url], quick, patience=10.0, clock=lambda: now)

    def another_is_answered() -> None:
        nonlocal now
        if "[503]" in two[0].bodies[-1]["messages"][-1]["content"]:
            ask(servers)
            now += 4

    two[0].hold = another_is_answered
    with pytest.raises(Refused, match=r"10 s: HTTP 503: the server says why"):
        ask(servers, "[503]")
    assert sum("[503]" in str(one) for one in two[0].bodies) == 3


def test_a_request_at_fault_is_asked_once(two: list[FakeChat]) -> None:
    servers = Servers([one.url for one in two], QUICK)
    with pytest.raises(Refused, match=r"^HTTP 400: the server says why$"):
        ask(servers, "[400]")
    assert len(two[0].bodies) + len(two[1].bodies) == 1


def test_a_wrong_key_ends_everything_at_once(two: list[FakeChat], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a secret key")
    two[0].key = two[1].key = "another key"
    servers = Servers([one.url for one in two], QUICK)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, servers, str(n)) for n in range(100)]
        for one in asked:
            with pytest.raises(EndpointDown, match="set the environment variable OPENAI_API_KEY") as down:
                one.result()
            assert "secret" not in str(down.value)
    assert len(two[0].bodies) + len(two[1].bodies) <= 8


def test_so_many_failures_in_a_row_are_the_servers(two: list[FakeChat]) -> None:
    servers = Servers([two[0].url], ServerConfig(attempts=1, pause=0.0, give_up_after=3))
    for _ in range(2):
        with pytest.raises(Refused):
            ask(servers, "[500]")
    with pytest.raises(EndpointDown, match="failed 3 requests in a row"):
        ask(servers, "[500]")


def test_a_server_that_takes_too_long_is_left_for_another_and_gets_less(two: list[FakeChat]) -> None:
    slow, good = two
    slow.hold = lambda: threading.Event().wait(PATIENCE)
    impatient = ServerConfig(timeout=0.3, attempts=50, pause=0.0, longest_pause=0.0, concurrency=8)
    servers = Servers([slow.url, good.url], impatient)  # the good one has as little time
    assert [ask(servers, str(n)) for n in range(4)] == [f"{POLITE}{n}." for n in range(4)]
    assert slow.bodies and servers.metrics()["requests_at_once"] < 16
