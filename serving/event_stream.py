"""Answers whose client may go away before their end: work that stops then, and server-sent events.

Web frameworks notice a client that went away when they next write to it, or not at all. Here whoever listens for it
cancels the work at once, because that work holds a slot of an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; cancelled, and that awaited, when the client goes away or the caller is cancelled.

    Args:
        receive: of ASGI; the request's body has been read.
        work: to be done.

    Raises:
        ClientGone: the client went away first.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, written as they come. When the client goes away their generator is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], deadline: float | None = None):
        """Begin with the first event.

        Args:
            events: whole ones, one or several at a time.
            deadline: by the loop's clock, after which a client that does not read is left.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._deadline = events, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it. A stream that its client does not read is left without its end: the connection is cut."""
        with suppress(ClientGone, TimeoutError):
            await unless_gone(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events) as events, asyncio.timeout_at(self._deadline):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
