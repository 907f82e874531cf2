"""The load generator parses responses correctly however their bytes are cut, and its figures are right."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.processes import kind_of
from benchmarks.serving.bare_engine import request_sender
from benchmarks.serving.chat_requests import bodies, understood
from benchmarks.serving.load_generator import Client, Record, closed_loop, open_loop
from benchmarks.serving.reference_server import start
from benchmarks.serving.run_statistics import differing, figures, percentile, ratios, slope, texts, together
from polite_flamingo.flamingo.config import GenerationConfig, RewriterConfig
from serving.backends.engine_host import EngineHost
from serving.config import ServiceConfig, ServingConfig
from tests.support import virtual_clock
from tests.support.patience import PATIENCE
from tests.support.sections import section
from tests.support.tiny_flamingo import Tiny

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(content: str = "", **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def chunked(data: bytes, size: int) -> bytes:
    """The body in chunks of so many bytes, wherever they cut."""
    parts = [data[place : place + size] for place in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


GOOD = event() + event("Ein Stück ") + b": a comment\n\n" + event("für Flamingos 🦩") + event(
    usage={"completion_tokens": 7}
) + b"data: [DONE]\n\n"  # fmt: skip


async def asked(answers: list[bytes], cut: int = 10**9, close: bool = False, **loop: float) -> list[Record]:
    """What the generator makes of a server that gives these answers in turn, some bytes at a time."""
    turn = iter(range(10**9))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            assert json.loads(await reader.readexactly(int(length.split(b":")[1]))) == {"question": 1}
            answer = answers[next(turn) % len(answers)]
            for place in range(0, len(answer), cut):
                writer.write(answer[place : place + cut])
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                break
        writer.close()

    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        assert isinstance(context.get("exception"), asyncio.IncompleteReadError | ConnectionError), context

    asyncio.get_running_loop().set_exception_handler(quiet)  # clients that are done close their connections
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = Client(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", [b'{"question": 1}'], timeout=PATIENCE
        )
        if "rate" in loop:
            return (await open_loop(client.send, client.now, first=0, drain=PATIENCE, **loop))[0]
        records = [Record(number, client.now()) for number in range(len(answers))]
        for record in records:
            await client.send(record)
        return records


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("cut", [1, 11, 10**6])
def test_an_answer_is_read_however_it_is_cut(chunk: int, cut: int) -> None:
    for one in asyncio.run(asked([HEAD + chunked(GOOD, chunk)] * 2, cut)):
        assert (one.text, one.tokens, one.pieces, one.status) == ("Ein Stück für Flamingos 🦩", 7, 2, 200)
        assert one.error == "" and one.start < one.first <= one.end


def test_what_goes_wrong_is_told_apart_and_the_next_answer_is_good() -> None:
    refused = json.dumps({"error": {"message": "no room", "code": "overloaded"}}).encode()
    full = b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    failing = event("a") + b'data: {"error": {"message": "it died", "code": "replica_died"}}\n\n'
    records = asyncio.run(
        asked([
            full % (len(refused), refused),
            HEAD + chunked(failing, 50),
            HEAD + chunked(event("no end"), 50),
            b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nplain",
            HEAD + chunked(GOOD, 50),
        ])
    )  # fmt: skip
    assert [(one.error, one.code, one.retry_after) for one in records] == [
        ("http", "overloaded", True),
        ("stream", "replica_died", False),
        ("cut", "", False),
        ("http", "not an error in OpenAI's form", False),
        ("", "", False),
    ]


def test_a_connection_that_ends_early_is_an_error_and_a_new_one_is_made() -> None:
    first, second = asyncio.run(asked([HEAD + chunked(GOOD, 50)[:60], HEAD + chunked(GOOD, 50)], close=True))
    assert (first.error, second.error) == ("cut", "")


def test_nobody_listens() -> None:
    async def ask(port: int) -> Record:
        client, record = Client(f"http://127.0.0.1:{port}", [b"{}"]), Record(0, 0.0)
        await client.send(record)
        return record

    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        assert asyncio.run(ask(taken.getsockname()[1])).error == "connect"


def test_an_open_loop_asks_as_often_as_it_was_told_whatever_the_answers() -> None:
    """Send times are sampled with a seed, and their number does not depend on a clock."""
    records = asyncio.run(asked([HEAD + chunked(GOOD, 50)], rate=400.0, seconds=0.5))
    assert 140 < len(records) < 260 and all(not one.error for one in records)
    assert [one.number for one in sorted(records, key=lambda one: one.start)] == list(range(len(records)))


def test_a_closed_loop_counts_from_when_every_client_was_answered() -> None:
    """By a clock of its own. Four clients hear at once, the fifth, which asks last, after five seconds."""
    busy, most = 0, 0

    async def run() -> tuple[list[Record], tuple[float, float]]:
        now = asyncio.get_running_loop().time

        async def ask(record: Record) -> None:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(4.5 if record.number == 44 else 1)
            busy -= 1
            record.end = now()

        return await closed_loop(ask, now, clients=5, seconds=10, first=40, drain=5)

    records, (begin, end) = virtual_clock.run(run())
    assert most == 5 and (begin, end) == (4.5, 14.5)
    assert sum(one.end < begin for one in records) == 4 * 4, "what came before the fifth was answered"
    assert sum(begin <= one.end <= end for one in records) == 4 * 10 + 1 + 10
    assert sorted(one.number for one in records) == list(range(40, 40 + len(records)))


def run(ends: list[float], error: str = "", tokens: int = 10) -> dict[str, object]:
    records = [
        {"number": place, "start": end - 1, "first": end - 0.5, "end": end, "status": 503 if error else 200,
         "tokens": tokens, "text": f"text {place}", "error": error, "code": ""}
        for place, end in enumerate(ends)
    ]  # fmt: skip
    return {"parts": [{"records": records, "window": (1.0, 3.0)}], "cpu": {"client": 0.5}}


def test_figures_count_what_ended_within_the_window() -> None:
    one = figures(run([0.5, 1.5, 2.0, 3.0, 3.5]))
    assert (one.requests, one.tokens, one.answered) == (1.5, 15.0, 3)
    assert one.waits == (0.5,) * 3 and one.totals == (1.0,) * 3 and one.cpu == {"client": 100.0}
    failed = figures(run([0.5, 2.0], error="http"))
    assert failed.requests == 0 and failed.errors == {"503": 2}
    both = together([one, figures(run([2.0])), failed])
    assert both.requests == 0.5 and both.answered == 4 and both.errors == {"503": 2}
    assert ratios([one], [figures(run([2.0]))]) == [3.0]


def test_percentiles_slope_and_texts() -> None:
    values = [float(one) for one in range(1, 201)]
    assert [percentile(values, p) for p in (0, 50, 99, 100)] == [1, 100, 198, 200]
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2)
    assert differing(texts([run([2.0, 2.5])], 10), {0: "text 0", 1: "another", 7: "text 7"}) == (1, 2)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::ServeReplica:polite-flamingo:chat.initialize_and_get_metadata", "chat"),
        ("ray::ServeReplica:polite-flamingo:ingress", "ingress"),
        ("ray::ProxyActor", "proxy"),
        ("/somewhere/haproxy -db -f /somewhere/haproxy.cfg", "proxy"),
        ("ray::DashboardAgent", "node agents"),
    ],
)
def test_processes_of_the_service_are_told_apart(command: str, kind: str) -> None:
    assert kind_of(command) == kind


def test_requests_are_drawn_by_their_seed_and_are_what_the_models_read() -> None:
    drawn = bodies(60, 3, "clever-flamingo")
    assert drawn == bodies(60, 3, "clever-flamingo") != bodies(60, 4, "clever-flamingo")
    read = [understood(json.loads(body)["messages"]) for body in drawn]
    assert {len(images) for _, images in read} == {0, 1, 2} and {len(turns) for turns, _ in read} == {1, 2}
    for turns, images in read:
        assert sum(turn.images for turn in turns) == len(images)
        assert turns[-1].target == "" and all(turn.target for turn in turns[:-1])


@pytest.fixture
def served(tiny: Tiny) -> ServiceConfig:
    config = RewriterConfig(
        flamingo=tiny.config, generation=GenerationConfig(num_beams=1, do_sample=False), threads=1, device="cpu"
    )
    return ServiceConfig(rewriter=section(config), serving=ServingConfig(chat=config))


@pytest.fixture
def baseline(served: ServiceConfig) -> Iterator[str]:
    server = start(served, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_baseline_answers_as_the_bare_engine_does(
    served: ServiceConfig, baseline: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "one_at_a_time")
    drawn = [json.loads(body) for body in bodies(6, 3, "clever-flamingo")]
    asked = [json.dumps(body | {"max_tokens": 12}).encode() for body in drawn]

    async def both() -> tuple[list[Record], list[Record]]:
        client = Client(baseline, asked)
        host = EngineHost("clever-flamingo", served.serving.chat, chat=True, flush_seconds=0.0)
        found: tuple[list[Record], list[Record]] = [], []
        senders: list[Callable[[Record], object]] = [
            client.send,
            request_sender(host, served.serving.chat.generation.no_repeat_ngram_size, asked, 0.0),
        ]
        for records, ask in zip(found, senders, strict=True):
            records += [Record(number, 0.0) for number in range(len(asked))]
            await asyncio.gather(*map(ask, records))  # type: ignore[arg-type]
        await host.aclose()
        return found

    theirs, ours = asyncio.run(both())
    assert all(one.status == 200 and not one.error and one.pieces for one in (*theirs, *ours))
    assert [one.text.strip() for one in theirs] == [one.text.strip() for one in ours]
    assert [one.tokens for one in theirs] == [one.tokens for one in ours]
    assert sum("prompt:" in line for line in caplog.messages) == len(asked), "the reference logs every prompt"


def test_bodies_come_back_from_their_file(tmp_path: Path) -> None:
    from benchmarks.serving.chat_requests import write

    drawn = bodies(5, 0, "m")
    write(tmp_path / "bodies", drawn)
    assert (tmp_path / "bodies").read_bytes().splitlines() == drawn
