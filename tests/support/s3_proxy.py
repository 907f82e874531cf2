"""A store that fails: an HTTP proxy on loopback, between a client and the S3 server of `s3_server.py`.

    with s3_proxy(environment, random_faults(seed=1, share=0.1)) as (proxy, environment):
        ...
        with proxy.gone():
            ...

A plan says for each request what goes wrong with it, so a test knows what it tried, and a seed repeats it. Signatures
cover the Host header, which is passed on unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

DELAY_SECONDS = 0.3
TICK_SECONDS = 0.02


class Fault(Enum):
    """What goes wrong with a request."""

    DROP_REQUEST = "the connection is reset before the server sees the request"
    CUT_REQUEST = "the connection is reset in the middle of the request's body, before the server sees it"
    DROP_REPLY = "the server has acted, and the connection is reset instead of an answer"
    LOSE_REPLY = "the server has acted, and no answer ever comes"
    CUT_REPLY = "the connection ends in the middle of the answer's body"
    DELAY = "the answer is late"
    SLOW_DOWN = "503 SlowDown"
    INTERNAL_ERROR = "500 InternalError"
    CONFLICT = "409 ConditionalRequestConflict"
    ACCESS_DENIED = "403 AccessDenied"
    CLOCK_SKEW = "403 RequestTimeTooSkewed"
    EXPIRED = "400 ExpiredToken"
    NOT_IMPLEMENTED = "501 NotImplemented"
    UNCONDITIONAL = "the conditions of a put are dropped, as by a store that ignores them; it must be unsigned"


PASSING = (Fault.DROP_REQUEST, Fault.CUT_REQUEST, Fault.DROP_REPLY, Fault.CUT_REPLY, Fault.DELAY, Fault.SLOW_DOWN,
           Fault.INTERNAL_ERROR)  # fmt: skip
"""Faults that a client should survive without anybody noticing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that arrived: the `number`-th one, from 0. `condition` is "if-match", "if-none-match" or None."""

    number: int
    method: str
    path: str
    condition: str | None


Plan = Callable[[Request], Fault | None]


def no_faults(request: Request) -> None:
    """Let every request pass."""


def random_faults(seed: int, share: float, faults: Sequence[Fault] = PASSING) -> Plan:
    """Let a share of all requests fail; which ones, and how, depends on the seed and their numbers alone."""

    def plan(request: Request) -> Fault | None:
        digest = hashlib.sha256(f"{seed} {request.number}".encode()).digest()
        if int.from_bytes(digest[:4], "big") >= share * 2**32:
            return None
        return faults[digest[4] % len(faults)]

    return plan


@dataclass
class Proxy:
    """The proxy while it runs.

    Attributes:
        plan: what happens to each request; may be replaced at any time.
        requests: every request so far, with its fault.
    """

    server: tuple[str, int]
    plan: Plan
    requests: list[tuple[Request, Fault | None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gone: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def faults(self) -> Counter[Fault]:
        """Count the faults so far."""
        return Counter(fault for _, fault in self.requests if fault)

    def fault_of(self, method: str, path: str, condition: str | None) -> Fault | None:
        """Number a request, note it, and ask the plan."""
        with self._lock:
            request = Request(number=len(self.requests), method=method, path=path, condition=condition)
            fault = self.plan(request)
            self.requests.append((request, fault))
        return fault

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Refuse connections and reset those that are open, as if the server's machine were switched off."""
        self._gone.set()
        try:
            yield
        finally:
            self._gone.clear()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the end."""
        address = listener.getsockname()
        while not self._ended.is_set():
            if self._gone.is_set():
                listener.close()
                while self._gone.is_set() and not self._ended.is_set():
                    time.sleep(TICK_SECONDS)
                listener = socket.create_server(address, backlog=256)
            if select.select([listener], [], [], TICK_SECONDS)[0]:
                client, peer = listener.accept()
                threading.Thread(target=self._talk, args=(client, peer), daemon=True).start()
        listener.close()

    def unreachable(self) -> bool:
        """Whether connections must be reset now."""
        return self._gone.is_set() or self._ended.is_set()

    def _talk(self, client: socket.socket, peer: tuple[str, int]) -> None:
        upstream = http.client.HTTPConnection(*self.server, timeout=120)
        with client, contextlib.closing(upstream), suppress(ConnectionError, _Reset):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Conversation(client, peer, self, upstream)


class _Reset(Exception):
    """Ends a conversation."""


class _Conversation(BaseHTTPRequestHandler):
    """One connection of a client: its requests, one after the other."""

    protocol_version = "HTTP/1.1"

    def __init__(
        self, client: socket.socket, peer: tuple[str, int], proxy: Proxy, upstream: http.client.HTTPConnection
    ):
        self._proxy, self._upstream = proxy, upstream
        super().__init__(client, peer, None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        while not select.select([self.connection], [], [], TICK_SECONDS)[0]:
            if self._proxy.unreachable():
                self._reset()
        if self._proxy.unreachable():
            self._reset()
        super().handle_one_request()

    def do_any(self) -> None:
        """Pass one request on and its answer back, with the fault that is planned for it."""
        condition = next((name for name in _CONDITIONS if name in self.headers), None)
        fault = self._proxy.fault_of(self.command, self.path, condition)
        size = int(self.headers.get("content-length", 0))
        if fault is Fault.CUT_REQUEST:
            self.rfile.read(size // 2)
        if fault in (Fault.CUT_REQUEST, Fault.DROP_REQUEST):
            self._reset()
        body = self.rfile.read(size)
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            return self._answer(status, f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode())
        if fault is Fault.DELAY:
            time.sleep(DELAY_SECONDS)
        answer, data = self._pass_on(body, drop_conditions=fault is Fault.UNCONDITIONAL)
        if fault is Fault.LOSE_REPLY:
            while not self._proxy.unreachable() and not select.select([self.connection], [], [], TICK_SECONDS)[0]:
                pass  # until the client gives up
        if fault in (Fault.DROP_REPLY, Fault.LOSE_REPLY) or self._proxy.unreachable():
            self._reset()
        headers = {key: value for key, value in answer.getheaders() if key.lower() not in _OF_THE_CONNECTION}
        length = int(answer.getheader("content-length") or 0) if self.command == "HEAD" else len(data)
        if fault is Fault.CUT_REPLY:
            self._answer(answer.status, data[: len(data) // 2], headers, max(length, 1))
            raise _Reset
        return self._answer(answer.status, data, headers, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

    def _pass_on(self, body: bytes, *, drop_conditions: bool) -> tuple[http.client.HTTPResponse, bytes]:
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            if not (drop_conditions and key.lower() in _CONDITIONS):
                self._upstream.putheader(key, value)
        try:
            self._upstream.endheaders(body)
            answer = self._upstream.getresponse()
            return answer, answer.read()
        except (http.client.HTTPException, OSError):
            self._reset()
            raise

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for key, value in (headers or {"content-type": "application/xml"}).items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """End the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Reset


_ANSWERS = {
    fault: (int(status), code)
    for fault in Fault
    for status, _, code in [fault.value.partition(" ")]
    if status.isdecimal()
}
_CONDITIONS = ("if-none-match", "if-match")
_OF_THE_CONNECTION = ("content-length", "transfer-encoding", "connection", "keep-alive")


@contextmanager
def s3_proxy(environment: dict[str, str], plan: Plan = no_faults) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """Run a proxy before the server that an environment leads to; yield it and the environment that leads to it."""
    address = urlsplit(environment["AWS_ENDPOINT_URL"])
    assert address.hostname and address.port
    proxy = Proxy(server=(address.hostname, address.port), plan=plan)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield proxy, {**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        proxy._ended.set()
        thread.join()
