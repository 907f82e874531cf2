"""The middleware in front of every route: it authenticates, limits and records requests.

One pure ASGI middleware. If its headers are reason enough, a request is refused before its body is read and its route
is looked up (`authentication.py`, `limits.py`). An unexpected exception becomes an error in OpenAI's format. Streams
pass through message by message, and so does a client's disconnect (`accounting.py`).

It does not look into bodies, does not speak TLS, and cannot limit how much of the headers the HTTP server in front of
it buffers: that is the work of a proxy (docs/security.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.config import AccessConfig, LimitsConfig
from serving.errors import Refusal, server_error
from serving.http import logs
from serving.http.accounting import TrackedRequest
from serving.http.authentication import Authenticator
from serving.http.keys import KeyRing
from serving.http.limits import RateLimiter, check_encoding, check_headers, check_length
from serving.http.metrics import Metrics


class AccessMiddleware:
    """Lets a request through to the application, or refuses it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: AccessConfig,
        limits: LimitsConfig,
        metrics: Metrics,
        keys: KeyRing | None,
        body_limits: Mapping[str, int],
        send_request_id: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
        calendar: Callable[[], float] = time.time,
    ):
        """Wrap `app`.

        Args:
            app: the application.
            access: who may send what, and whether there is an access log.
            limits: of bodies.
            metrics: counts every request.
            keys: None lets everybody in.
            body_limits: path -> maximum bytes, where bodies may be larger than `limits.body_bytes`.
            send_request_id: add the header x-request-id; Ray Serve's proxy adds one of its own.
            clock: returns nanoseconds, for rates.
            calendar: returns seconds since 1970, for keys that expire.
        """
        self._app, self._limits, self._log, self._metrics = app, limits, access.log, metrics
        self._authenticator = Authenticator(access, keys, calendar)
        self._limiter = RateLimiter(access, clock)
        self._body_limits, self._send_request_id = dict(body_limits), send_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":  # no route has any
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = TrackedRequest(scope, receive, send, self._limits.body_seconds)
        if self._send_request_id:
            request.response_headers.append((b"x-request-id", request.id.encode()))
        try:
            try:
                self._admit(request)
                await self._run(request)
            except Refusal as refusal:
                request.response_headers += _encoded(refusal.headers)
                self._metrics.refused(refusal.reason)
                await request.respond(refusal.error)
        except asyncio.CancelledError:  # how Ray Serve reports that the client has left
            request.disconnected = not request.complete
            raise
        finally:
            if request.account is not None:
                self._limiter.release(request.account)
                self._metrics.open.dec()
            request.record(self._metrics, log=self._log)

    def _admit(self, request: TrackedRequest) -> None:
        """Raise Refusal unless the request may go on to its route."""
        scope, headers = request.scope, request.headers
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        check_headers(len(scope["headers"]), headers, len(path) + len(scope.get("query_string", b"")))
        request.body_limit = self._body_limits.get(path, self._limits.body_bytes)
        if self._authenticator.is_open(request.method, path):
            return
        client = self._authenticator.identify(request.method, headers)
        scope["state"]["client"] = client.id
        check_encoding(headers)
        if path == "/metrics":  # answers even when the server is too busy for anything else
            return
        check_length(headers, request.body_limit)
        request.account, rate_headers = self._limiter.admit(client)
        request.response_headers += _encoded(rate_headers)
        self._metrics.open.inc()

    async def _run(self, request: TrackedRequest) -> None:
        """Call the application. Raises Refusal for a body that was cut short."""
        try:
            await self._app(request.scope, request.receive, request.send)
        except Exception as error:
            if not request.disconnected and request.refusal is None:  # else the route lost its client: no failure
                request.status = 500
                request.stats.failed("internal_error")
                logs.failure(request.id, request.route, error)
                if not request.started:
                    await request.respond(server_error(f"internal error; see the server log for request {request.id}"))
        if request.refusal is not None:
            raise request.refusal


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
