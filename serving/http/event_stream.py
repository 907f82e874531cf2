"""Server-sent events to a client that may disconnect or stop reading.

Web frameworks notice a disconnected client when they next write to it. This one listens meanwhile and closes the
generator of events at once, because it holds a slot of an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import ApiError
from serving.http.disconnects import cancel_on_disconnect


class EventStream(Response):
    """Sends events as they come, and closes their generator however the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], deadline: float | None = None):
        """Prepare a response.

        Args:
            events: encoded, one or several at a time.
            deadline: time, by the event loop's clock, at which a client that does not read is cut off.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._deadline = events, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI app. A stream that its client does not read has no end, so the server cuts the connection."""
        with suppress(ApiError, TimeoutError):  # the client disconnected, or does not read
            await cancel_on_disconnect(Request(scope, receive), self._write(send))

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events) as events, asyncio.timeout_at(self._deadline):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
