"""Server-sent events to a client that may go away or stop reading.

Web frameworks notice a client that went away when they next write to it. Here somebody listens for it meanwhile, and
closes the events at once, because what makes them holds a slot of an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import ApiError
from serving.http.disconnects import unless_gone


class EventStream(Response):
    """Writes events as they come. Their generator is closed whatever ends the stream."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], deadline: float | None = None):
        """Nothing is written yet.

        Args:
            events: whole ones, one or several at a time.
            deadline: by the loop's clock, after which a client that does not read is left.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._deadline = events, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it. A stream that its client does not read is left without its end: the connection is cut."""
        with suppress(ApiError, TimeoutError):  # of a client that is gone, and one that does not read
            await unless_gone(Request(scope, receive), self._write(send))

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events) as events, asyncio.timeout_at(self._deadline):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
