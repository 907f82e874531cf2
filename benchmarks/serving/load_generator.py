"""A load generator: many concurrent streaming chat requests, as cheaply as Python can send them.

    python -m benchmarks.serving.load_generator --url URL --bodies BODIES --out FILE --clients 32 --seconds 10
    python -m benchmarks.serving.load_generator --url URL --bodies BODIES --out FILE --rate 40 --seconds 60

`--clients` is a closed loop: each client sends a request, waits for the whole answer, and sends the next. `--rate` is
an open loop: requests start at random times (Poisson, seeded), and latency counts from the
time at which a request should have started. BODIES holds one request per line, as JSON; requests start at line
`--first` and wrap around. FILE gets the outcome of each request, as JSON (`Record`), and the generator's own CPU
seconds.

HTTP/1.1 and server-sent events are parsed by hand on kept-alive connections: an ordinary client takes more CPU than the
server, which here shares its cores. It retries nothing, and imports neither torch nor Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SETTLED = 0.05
"""Seconds that an open loop may be late without a warning."""


@dataclass(slots=True)
class Record:
    """The outcome of a request; times in seconds from the start of the run.

    Attributes:
        number: number of its body.
        start: when it was sent, or in an open loop should have been.
        first: when the first text came; 0 if none did.
        end: when the answer ended.
        status: HTTP status; 0 if there was none.
        tokens: tokens of the answer, as counted by the server.
        pieces: number of events with text.
        text: the answer's text.
        error: "" for a complete answer; "http" (a status other than 200), "stream" (an error event), "cut" (the
            connection ended within the answer), "connect", "timeout".
        code: the server's error code.
        retry_after: whether a refusal said when to retry.
    """

    number: int
    start: float
    first: float = 0.0
    end: float = 0.0
    status: int = 0
    tokens: int = 0
    pieces: int = 0
    text: str = ""
    error: str = ""
    code: str = ""
    retry_after: bool = False


SendRequest = Callable[[Record], Awaitable[None]]
"""Sends the request of a record, and fills in its outcome."""


class Answer(asyncio.Protocol):
    """One kept-alive connection; parses responses as they arrive, wherever blocks end.

    Attributes:
        closed: whether the connection can take no more requests.
    """

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._buffer = bytearray()
        self._record: Record | None = None
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False
        self._restart()

    def _restart(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._left = -1
        """Bytes missing from the body or from its current chunk; -1 while the length is unknown."""
        self._chunked, self._stream = False, False
        self._event = bytearray()

    async def send(self, request: bytes, record: Record) -> None:
        """Send a request, and return once it is answered or has failed. Closes the connection if cancelled."""
        assert self._transport is not None
        self._restart()
        self._record, self._done = record, asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._done
        except asyncio.CancelledError:
            self._transport.abort()
            self.closed = True
            raise
        finally:
            self._record = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio: the current request has failed."""
        self.closed = True
        if self._record is not None:
            self._finish("cut")

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._record is None:
            return
        self._buffer += data
        if not self._headers and not self._head():
            return
        while self._record is not None and self._body():
            pass

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._record is None:
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        for line in lines:
            name, _, value = line.partition(b":")
            self._headers[name.strip().lower()] = value.strip()
        self._record.status = int(first.split(b" ", 2)[1])
        self._record.retry_after = b"retry-after" in self._headers
        self._chunked = self._headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        self._stream = self._headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if not self._chunked:
            self._left = int(self._headers.get(b"content-length", b"0"))
        return True

    def _body(self) -> bool:
        """Consume a part of the body; False if more must arrive first, or nothing more will."""
        if self._chunked and self._left < 0:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(self._buffer[:end].split(b";")[0], 16)
            del self._buffer[: end + 2]
            self._left = size + 2  # the chunk's own line end; the last chunk has nothing but that
            if size == 0:
                self._chunked = False
                self._left = 2
            return True
        if self._chunked:
            if len(self._buffer) < self._left:
                return False
            self._take(bytes(self._buffer[: self._left - 2]))
            del self._buffer[: self._left]
            self._left = -1
            return True
        if len(self._buffer) < self._left:
            return False
        self._take(bytes(self._buffer[: self._left]))
        del self._buffer[: self._left]
        self._end()
        return False

    def _take(self, data: bytes) -> None:
        self._event += data
        if not self._stream:
            return
        *events, rest = self._event.split(b"\n\n")
        self._event = rest
        for event in events:
            if event.startswith(b"data:") and self._record is not None:
                self._told(bytes(event[5:].strip()))

    def _told(self, data: bytes) -> None:
        record = self._record
        assert record is not None
        if data == b"[DONE]":
            self._stream = False  # anything else belongs to no event
            self._event.clear()
            record.end = self._now()
            return
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            record.error, record.code = "stream", str(event["error"].get("code") or event["error"].get("type"))
            return
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                record.first = record.first or self._now()
                record.pieces += 1
                record.text += text
        if usage := event.get("usage"):
            record.tokens = usage["completion_tokens"]

    def _end(self) -> None:
        record = self._record
        assert record is not None
        if record.status != 200:
            try:
                error = json.loads(bytes(self._event))["error"]
                record.code = str(error.get("code") or error.get("type"))
            except (ValueError, KeyError, TypeError, AttributeError):
                record.code = "not an error in OpenAI's form"
            self._finish("http")
        else:
            self._finish(record.error or ("" if record.end else "cut"))
        if self._headers.get(b"connection", b"").lower() == b"close":
            self.closed = True
            if self._transport is not None:
                self._transport.close()

    def _finish(self, error: str) -> None:
        assert self._record is not None and self._done is not None
        self._record.error = error
        self._record.end = self._record.end or self._now()
        self._record = None
        if not self._done.done():
            self._done.set_result(None)


class Client:
    """Sends requests to a server, on as many connections as there are concurrent requests."""

    def __init__(self, url: str, bodies: Sequence[bytes], *, key: str = "", timeout: float = 120.0):
        """Args: bodies: requests as JSON. key: API key. timeout: seconds for a whole answer."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        bearer = f"Authorization: Bearer {key}\r\n" if key else ""
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{bearer}"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._bodies, self._timeout = bodies, timeout
        self._idle: list[Answer] = []
        self._began = time.perf_counter()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    async def send(self, record: Record) -> None:
        """See `SendRequest`."""
        body = self._bodies[record.number % len(self._bodies)]
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connection()
                await connection.send(request, record)
        except TimeoutError:
            record.error, record.end = "timeout", self.now()
        except OSError:
            record.error, record.end = "connect", self.now()
        else:
            if not connection.closed:
                self._idle.append(connection)

    async def _connection(self) -> Answer:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: Answer(self.now), self._host, self._port))[1]


async def closed_loop(
    send: SendRequest,
    now: Callable[[], float],
    *,
    clients: int,
    seconds: float,
    first: int,
    drain: float,
    longest: float = 300.0,
) -> tuple[list[Record], tuple[float, float]]:
    """A closed loop: each client sends its next request when the last one is answered.

    Args:
        send: sends a request.
        now: seconds since the run began.
        clients: number of clients.
        seconds: duration of the measurement, from when every client has been answered once.
        first: number of the first request.
        drain: seconds for answers that are open at the end; then they are given up.
        longest: maximum duration in seconds.

    Returns:
        What was answered, and the window that counts: from when every client has been answered once to the end.
    """
    records: list[Record] = []
    numbers = iter(range(first, first + 10**9))
    answered: set[int] = set()
    steady = asyncio.Event()
    over = False

    async def client(which: int) -> None:
        while not over:
            record = Record(next(numbers), now())
            await send(record)
            records.append(record)
            answered.add(which)
            if len(answered) == clients:
                steady.set()
            if record.error:
                await asyncio.sleep(0.05)  # do not send a thousand requests per second to a server that refuses at once

    tasks = [asyncio.create_task(client(which)) for which in range(clients)]
    begin = now()
    try:
        async with asyncio.timeout(longest):
            await steady.wait()
            begin = now()
            await asyncio.sleep(seconds)
    except TimeoutError:
        pass  # the window says how long it was
    end, over = now(), True
    await _give_up(tasks, drain)
    return records, (begin, end)


async def open_loop(
    send: SendRequest, now: Callable[[], float], *, rate: float, seconds: float, first: int, drain: float, seed: int = 0
) -> tuple[list[Record], tuple[float, float]]:
    """Requests at random times, `rate` per second on average; arguments and result as `closed_loop`."""
    rng = random.Random(seed)
    records: list[Record] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(record: Record) -> None:
        await send(record)
        records.append(record)

    moment, number = rng.expovariate(rate), first
    while moment < seconds:
        if (wait := moment - now()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(Record(number, moment)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        moment += rng.expovariate(rate)
        number += 1
    await _give_up(list(tasks), drain)
    return records, (0.0, seconds)


async def _give_up(tasks: Sequence[asyncio.Task[None]], drain: float) -> None:
    if not tasks:
        return
    await asyncio.wait(tasks, timeout=drain)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def main() -> None:
    """Read the bodies, run the loop, write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=0, help="number of clients of the closed loop")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second of the open loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds for open answers at the end")
    parser.add_argument("--timeout", type=float, default=120.0, help="time limit of an answer in seconds")
    parser.add_argument("--key", default="", help="API key")
    parser.add_argument("--cpus", default="", help="cores to stay on, such as 0,1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.cpus:
        os.sched_setaffinity(0, {int(core) for core in options.cpus.split(",")})
    bodies = options.bodies.read_bytes().splitlines()

    async def run() -> tuple[list[Record], tuple[float, float], float]:
        client = Client(options.url, bodies, key=options.key, timeout=options.timeout)
        also = {"seconds": options.seconds, "first": options.first, "drain": options.drain}
        cpu = time.process_time()
        if options.rate:
            found = await open_loop(client.send, client.now, rate=options.rate, seed=options.seed, **also)
        else:
            found = await closed_loop(client.send, client.now, clients=options.clients, **also)
        return *found, time.process_time() - cpu

    records, window, cpu = asyncio.run(run())
    result = {"records": [asdict(record) for record in records], "window": window, "cpu": cpu}
    options.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
