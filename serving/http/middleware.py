"""What stands before every route: who may come in, how often, with how much; what is counted and written down.

One pure ASGI middleware. A request is turned away by its headers alone wherever they tell enough, before a byte of its
body is read and before a route is looked for. Afterwards the body is counted while the route reads it, and what nobody
expected becomes an error in OpenAI's format. Streams pass through message by message, and so does the news that the
client has left. Counts and rates are of this process: several ingress replicas each keep their own.

It does not look into bodies, it does not speak TLS, and it cannot limit what the HTTP server in front of it buffers of
headers: those are for a proxy in front (docs/security.md).
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.config import ServingConfig
from serving.errors import ApiError, overloaded, server_error
from serving.http import logs, unframed
from serving.http.keys import KeyRing
from serving.http.metrics import Metrics, Usage
from serving.http.rates import SECOND, Account, duration

OPEN = frozenset(("/", "/health", "/docs", "/docs.css", "/openapi.json", "/favicon.ico"))
"""Paths that anybody may GET; and those below `OPEN_BELOW`. All others ask for a key, also ones that do not exist."""
OPEN_BELOW = "/page/"
MOST_HEADERS = 100
HEADER_BYTES = 64 << 10
"""Of all headers of a request, and its target; OpenAI's clients send less than 2 KiB."""
BYTES_PER_SECOND = 64 << 10
"""A body that comes more slowly than that, after its first `limits.body_seconds`, is not waited for."""
LEFT = 499
"""The status that the log and the metrics give a request whose client left before the answer was whole."""
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        b"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
RATE_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))

Refusal = tuple[str, ApiError]
"""The word for it in the metrics, and what the client is told."""


class Gate:
    """The middleware. Attributes: none that others should touch."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServingConfig,
        metrics: Metrics,
        ring: KeyRing | None,
        bodies: Mapping[str, int],
        answer_id: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
        calendar: Callable[[], float] = time.time,
    ):
        """Stand before `app`.

        Args:
            app: everything else.
            config: limits and access.
            metrics: are counted here.
            ring: keys; None lets everybody in.
            bodies: limits in bytes of paths whose bodies may be larger than `limits.body_bytes`.
            answer_id: add the header x-request-id; Ray Serve's proxy adds one of its own, and clients would read both.
            clock: nanoseconds, for rates.
            calendar: seconds since 1970, for keys that expire.
        """
        self._app, self._config, self._metrics = app, config, metrics
        self._ring, self._bodies, self._answer_id = ring, dict(bodies), answer_id
        self._clock, self._calendar = clock, calendar
        self._accounts: dict[str, Account] = {}
        self._open = 0
        self._origins = frozenset(origin.encode() for origin in config.access.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self._config.limits.body_seconds)
        if self._answer_id:
            visit.headers.append((b"x-request-id", visit.id.encode()))
        try:
            refusal = self._admit(visit)
            if refusal is None:
                try:
                    await self._app(visit.scope, visit.receive, visit.send)
                except Exception as error:
                    await self._fail(visit, error)
                refusal = visit.refusal
            if refusal is not None:
                self._metrics.turned_away(refusal[0])
                await visit.answer(refusal[1])
        except asyncio.CancelledError:  # Ray Serve's way to say that the client has left
            visit.left = not visit.complete
            raise
        finally:
            self._leave(visit)

    def _admit(self, visit: _Visit) -> Refusal | None:
        """Let in, or say why not."""
        scope, headers = visit.scope, visit.sent
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        size = sum(map(len, headers.values())) + len(path) + len(scope.get("query_string", b""))
        if size > HEADER_BYTES or len(scope["headers"]) > MOST_HEADERS:
            return "large_headers", ApiError(431, f"headers and URL may have {HEADER_BYTES:,} bytes in all")
        visit.most_bytes = self._bodies.get(path, self._config.limits.body_bytes)
        if scope["method"] in _SAFE_METHODS and self._is_open(path):
            return None
        refusal, client, limits = self._identify(visit)
        if refusal is not None:
            return refusal
        visit.scope["state"]["client"] = client
        if visit.sent.get(b"content-encoding", b"identity").lower() != b"identity":
            message = "bodies are taken as they are: unpack this one, and leave Content-Encoding out"
            return "packed_body", ApiError(415, message, code="unsupported_encoding")
        if path == "/metrics":  # also of a server that is too busy for anything else
            return None
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > visit.most_bytes:
            return "large_body", _large_body(visit.most_bytes)
        return self._count_in(visit, client, limits)

    def _is_open(self, path: str) -> bool:
        return path in OPEN or path.startswith(OPEN_BELOW) or (path == "/metrics" and self._config.access.open_metrics)

    def _identify(self, visit: _Visit) -> tuple[Refusal | None, str, tuple[int, int]]:
        """Who comes, and how many requests a minute and at once are theirs."""
        access = self._config.access
        usual = access.requests_per_minute, access.concurrent_requests
        if self._ring is None:
            return (self._from_elsewhere(visit) if visit.scope["method"] not in _SAFE_METHODS else None), "", usual
        scheme, _, value = visit.sent.get(b"authorization", b"").partition(b" ")
        secret = value.strip()
        if scheme.lower() != b"bearer" or not secret:
            return ("no_key", _no_key("send an API key: `Authorization: Bearer KEY`", "missing_api_key")), "", usual
        key = self._ring.find(secret)
        if key is None:
            return ("wrong_key", _no_key("this API key is not known here")), "", usual
        if (state := key.state(self._calendar())) != "active":
            return (f"{state}_key", _no_key(f"this API key is {state}; ask for another")), "", usual
        rate, at_once = key.requests_per_minute, key.concurrent_requests
        return None, key.id, (usual[0] if rate is None else rate, usual[1] if at_once is None else at_once)

    def _from_elsewhere(self, visit: _Visit) -> Refusal | None:
        """Without keys, any web page that a user has open could use a server that only this user can reach."""
        origin = visit.sent.get(b"origin")
        if origin is None or origin in self._origins or b"*" in self._origins:
            return None
        site = visit.sent.get(b"sec-fetch-site")  # browsers leave it out on plain http
        same = site in (b"same-origin", b"none") if site else origin.partition(b"://")[2] == visit.sent.get(b"host")
        if same:
            return None
        message = "web pages of other origins may not call this server; `serving.access.origins` lists those that may"
        return "other_origin", ApiError(403, message, "permission_error", "origin_not_allowed")

    def _count_in(self, visit: _Visit, client: str, limits: tuple[int, int]) -> Refusal | None:
        most = self._config.access.open_requests
        if most and self._open >= most:
            return "busy", overloaded(f"the server has {most} requests open and takes no more; try again later")
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = Account(None, 0)
        account.set_limits(*limits)
        if account.at_once and account.open >= account.at_once:
            message = f"too many requests at once: {account.at_once} are the limit"
            return "at_once", ApiError(429, message, "rate_limit_error", "rate_limit_exceeded", retry_after=1)
        if (bucket := account.bucket) is not None:
            now = self._clock()
            wait = bucket.take(now)
            told = str(bucket.limit), str(bucket.left(now)), duration(bucket.until_full(now))
            visit.headers += [(name.encode(), value.encode()) for name, value in zip(RATE_HEADERS, told, strict=True)]
            if wait:
                message = f"too many requests: {bucket.limit} a minute are the limit; try again in {duration(wait)}"
                error = ApiError(429, message, "rate_limit_error", "rate_limit_exceeded", retry_after=wait / SECOND)
                return "rate", error
        visit.account = account
        account.open += 1
        self._open += 1
        self._metrics.open.inc()
        return None

    async def _fail(self, visit: _Visit, error: Exception) -> None:
        """What nobody expected. Where the answer has begun, its end never comes, and the server cuts the connection."""
        if visit.left or visit.refusal is not None:  # what a route raises when its client is gone is no failure
            return
        visit.status = 500
        visit.usage.failed("internal_error")
        logs.failure(visit.id, visit.route, error)
        if not visit.started:
            await visit.answer(server_error(f"the server failed; its log knows more of request {visit.id}"))

    def _leave(self, visit: _Visit) -> None:
        if visit.account is not None:
            visit.account.open -= 1
            self._open -= 1
            self._metrics.open.dec()
        usage = visit.usage
        seconds = time.perf_counter() - usage.started
        status = LEFT if visit.left else visit.status
        self._metrics.finished(visit.route, visit.method, status, seconds, usage)
        if self._config.access.log:
            first = usage.to_first_token
            logs.request_line(
                request_id=visit.id,
                client=visit.scope["state"]["client"],
                method=visit.method,
                route=visit.route,
                status=status,
                seconds=round(seconds, 6),
                first_token_seconds=None if first is None else round(first, 6),
                prompt_tokens=sum(prompt for prompt, _ in usage.tokens.values()) if usage.tokens else None,
                completion_tokens=sum(answer for _, answer in usage.tokens.values()) if usage.tokens else None,
                bytes_in=visit.bytes_in,
                bytes_out=visit.bytes_out,
                failure=usage.failure,
            )


class _Visit:
    """One request on its way in, and its answer on the way out. The route gets `receive` and `send`."""

    __slots__ = (
        "_deadline", "_gathered", "_read", "_receive", "_seconds", "_send", "account", "bytes_in", "bytes_out",
        "complete", "headers", "id", "left", "method", "most_bytes", "refusal", "scope", "sent", "started", "status",
        "usage",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, seconds: float):
        self._receive, self._send, self._seconds = receive, send, seconds
        self.method = scope["method"]
        self.scope = {**scope, "method": "GET"} if self.method == "HEAD" else scope  # its answer, without the body
        self.sent: dict[bytes, bytes] = dict(scope["headers"])
        given = self.sent.get(b"x-request-id", b"")
        self.id = given.decode() if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        self.usage = Usage()
        own = {"client": "", "request_id": self.id, "usage": self.usage}
        self.scope["state"] = {**scope.get("state", {}), **own}
        self.headers: list[tuple[bytes, bytes]] = list(SECURITY_HEADERS)
        self.account: Account | None = None
        self.refusal: Refusal | None = None
        self.most_bytes = self.bytes_in = self.bytes_out = self.status = 0
        self.started = self.complete = self.left = self._read = False
        self._deadline = 0.0
        self._gathered: tuple[Message, bytearray] | None = None

    @property
    def route(self) -> str:
        """The template of the path: what the router found, which was asked of no other."""
        return getattr(self.scope.get("route"), "path", "none")

    async def receive(self) -> Message:
        """What the client sends, until its body is too much or too slow: then, to the route, it is gone."""
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if self._read:
            message = await self._receive()
        else:
            self._deadline = self._deadline or asyncio.get_running_loop().time() + self._seconds
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                self.refusal = "slow_body", ApiError(408, "the body of the request came too slowly", code="slow_body")
                return {"type": "http.disconnect"}
        if message["type"] != "http.request":
            self.left = not self.complete
            return message
        got = len(message.get("body", b""))
        self.bytes_in += got
        self._deadline += got / BYTES_PER_SECOND
        self._read = not message.get("more_body", False)
        if self.bytes_in > self.most_bytes:
            self.refusal = "large_body", _large_body(self.most_bytes)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """What the route answers; what it says of a body that was cut short is not passed on."""
        if self.refusal is not None:
            return
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            if self._must_be_whole(message["headers"]):
                self._gathered = message, bytearray()
                return
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.method == "HEAD":
                message = {**message, "body": b""}
            if self._gathered is not None:
                start, body = self._gathered
                body += message.get("body", b"")
                if not self.complete:
                    return
                start["headers"].append((b"content-length", b"%d" % len(body)))
                await self._send(start)
                message = {"type": "http.response.body", "body": bytes(body)}
        await self._send(message)

    def _must_be_whole(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the server would send a body of these headers in chunks, which HTTP/1.0 does not know."""
        scope = self.scope
        if scope.get("http_version") != "1.0" or unframed.MARK in scope.get("extensions", {}):
            return False
        return not any(name.lower() == b"content-length" for name, _ in headers)

    async def answer(self, error: ApiError) -> None:
        """An error instead of the route's answer; nothing where that has begun, so that the server cuts it."""
        self.refusal = None
        if self.started:
            return
        body = _encode(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
        if error.status == 401:
            known = error.code != "missing_api_key"
            headers.append((b"www-authenticate", b'Bearer error="invalid_token"' if known else b"Bearer"))
        if error.status in (408, 413, 431) or (b"transfer-encoding" in self.sent and not self._read):
            headers.append((b"connection", b"close"))  # else the rest would be taken in, to be thrown away
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _no_key(message: str, code: str = "invalid_api_key") -> ApiError:
    return ApiError(401, message, "authentication_error", code)


def _large_body(most: int) -> ApiError:
    return ApiError(413, f"the body of this request may have {most:,} bytes", code="body_too_large")
