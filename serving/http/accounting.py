"""One request as the middleware sees it: bytes in and out, how it ended, and what is recorded.

`TrackedRequest` stands between server and route: it counts the body while the route reads it, ends one that is too
large or too slow, adds headers to the response, and notices a client that leaves.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from serving.errors import ApiError, Refusal
from serving.http import http10, logs
from serving.http.limits import body_too_large
from serving.http.metrics import Metrics, RequestStats
from serving.http.rates import Account

MIN_BYTES_PER_SECOND = 64 << 10
"""Minimum bytes per second of a body after its first `limits.body_seconds`; a slower one is refused."""
CLIENT_CLOSED_REQUEST = 499
"""Status in log and metrics for a client that left before the response was complete."""
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        b"trusted-types 'none'",
    ),
)
"""Headers of every response. The policy is the chat page's; `data:` and `blob:` are images that users chose."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_encode = json.JSONEncoder(separators=(",", ":")).encode


class TrackedRequest:
    """A request and its response. The route gets `scope`, `receive` and `send`.

    Attributes:
        id: the client's x-request-id if it is well formed, else a new one.
        headers: the client's, by lower-case name.
        response_headers: added to the response.
        stats: reported by the route (`request.state.stats`).
        account: the client's account, once the request is counted.
        refusal: why the body was cut short.
        body_limit: maximum bytes of the body.
        started: whether the response has begun.
        complete: whether the whole response was sent.
        disconnected: whether the client left before that.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, seconds: float):
        """Wrap the arguments of an ASGI call. Args: seconds: for the body, see `limits.body_seconds`."""
        self._receive, self._send, self._seconds = receive, send, seconds
        self.method = scope["method"]
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope  # same response, without its body
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given.decode() if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        self.stats = RequestStats()
        own = {"client": "", "request_id": self.id, "stats": self.stats}
        self.scope["state"] = {**scope.get("state", {}), **own}
        self.response_headers: list[tuple[bytes, bytes]] = list(SECURITY_HEADERS)
        self.account: Account | None = None
        self.refusal: Refusal | None = None
        self.body_limit = self.bytes_in = self.bytes_out = self.status = 0
        self.started = self.complete = self.disconnected = self._read = False
        self._deadline = 0.0
        self._buffered: tuple[Message, bytearray] | None = None

    @property
    def route(self) -> str:
        """Return the route's path template; "none" if no route matched."""
        return getattr(self.scope.get("route"), "path", "none")

    async def receive(self) -> Message:
        """ASGI's receive. A body that is too large or too slow ends here: the route sees a client that disconnects."""
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        self._deadline = self._deadline or asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(None if self._read else self._deadline):
                message = await self._receive()
        except TimeoutError:
            error = ApiError(408, "the body of the request arrived too slowly", code="slow_body")
            self.refusal = Refusal("slow_body", error)
            return {"type": "http.disconnect"}
        if message["type"] != "http.request":
            self.disconnected = not self.complete
            return message
        received = len(message.get("body", b""))
        self.bytes_in += received
        self._deadline += received / MIN_BYTES_PER_SECOND
        self._read = not message.get("more_body", False)
        if self.bytes_in > self.body_limit:
            self.refusal = body_too_large(self.body_limit)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """ASGI's send. The response to a body that was cut short is dropped."""
        if self.refusal is not None:
            return
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self.response_headers]}
            if self._needs_length(message["headers"]):
                self._buffered = message, bytearray()
                return
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.method == "HEAD":
                message = {**message, "body": b""}
            if self._buffered is not None:
                start, body = self._buffered
                body += message.get("body", b"")
                if not self.complete:
                    return
                start["headers"].append((b"content-length", b"%d" % len(body)))
                await self._send(start)
                message = {"type": "http.response.body", "body": bytes(body)}
        await self._send(message)

    def _needs_length(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the server would send the response in chunks, which HTTP/1.0 does not support."""
        scope = self.scope
        if scope.get("http_version") != "1.0" or http10.MARK in scope.get("extensions", {}):
            return False
        return not any(name.lower() == b"content-length" for name, _ in headers)

    async def respond(self, error: ApiError) -> None:
        """Send an error instead of the route's response; if that has begun, the server cuts the connection."""
        self.refusal = None
        if self.started:
            return
        body = _encode(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
        if error.status == 401:
            rejected = error.code != "missing_api_key"
            headers.append((b"www-authenticate", b'Bearer error="invalid_token"' if rejected else b"Bearer"))
        if error.status in (408, 413, 431) or (b"transfer-encoding" in self.headers and not self._read):
            headers.append((b"connection", b"close"))  # else the server would read the rest only to discard it
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def record(self, metrics: Metrics, *, log: bool) -> None:
        """Count the finished request. Args: log: also write its line in the access log."""
        stats = self.stats
        seconds = time.perf_counter() - stats.started
        status = CLIENT_CLOSED_REQUEST if self.disconnected else self.status
        metrics.finished(self.route, self.method, status, seconds, stats)
        if not log:
            return
        first = stats.to_first_token
        logs.request_line(
            request_id=self.id,
            client=self.scope["state"]["client"],
            method=self.method,
            route=self.route,
            status=status,
            seconds=round(seconds, 6),
            first_token_seconds=None if first is None else round(first, 6),
            prompt_tokens=sum(prompt for prompt, _ in stats.tokens.values()) if stats.tokens else None,
            completion_tokens=sum(completion for _, completion in stats.tokens.values()) if stats.tokens else None,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            failure=stats.failure,
        )
