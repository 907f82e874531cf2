"""The engine as a service inside one process: asyncio tasks submit requests, and one thread runs it.

    async with AsyncEngine(engine, max_waiting=64) as service:
        async for chunk in service.stream(Request(ids=..., params=...)):
            print(chunk.text, end="")

Open streams share the engine's batch. When a stream is closed or dropped, or its reader is cancelled, its slot is freed
with the next step. The thread sleeps while there is nothing to do.

A request that fails alone raises its `BadSample` in its own stream. A step that raises fails all open streams with
`EngineFailed`, and the engine starts again for new ones. After several failures without a good answer in between (a GPU
that is lost stays lost) it takes no more requests; `failure` holds the cause, and the process should be replaced.

This module uses no web framework and no Ray, and knows nothing of prompts. Beam search cannot stream.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.roofline import Ceilings
from polite_flamingo.sample import BadSample


class Overloaded(RuntimeError):
    """The queue is full; try again later. An HTTP server answers 429."""


class EngineFailed(RuntimeError):
    """The engine failed while this request ran, or is broken for good; see its cause. An HTTP server answers 500."""


class EngineClosed(RuntimeError):
    """The engine is closing and takes no more requests. An HTTP server answers 503."""


@dataclass(frozen=True)
class Chunk:
    """What was generated since the previous chunk.

    Attributes:
        text: text that no later token can change; it may lag behind the tokens (see `detokenizer.py`).
        tokens: ids of the new tokens.
        finish_reason: "stop", "length" or "cancelled" in the last chunk, else "".
        prompt_tokens: length of the prompt, where an image counts as one; the same in every chunk.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str = ""
    prompt_tokens: int = 0


@dataclass(eq=False)
class _Ticket:
    """Connects a request to its stream. The engine's thread holds it instead of the stream, which can be collected."""

    request: Request
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[Chunk | Exception] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing more will come."""
    tokens: int = 0
    characters: int = 0

    def next_chunk(self) -> Chunk | Exception | None:
        """Return what is new since the previous call; None if nothing is."""
        request = self.request
        if request.error is not None:
            return BadSample(request.error.reason, request.error.detail)  # requests about one broken image share it
        text, tokens = request.text[self.characters :], tuple(request.tokens[self.tokens :])
        self.tokens, self.characters = len(request.tokens), len(request.text)
        if not (tokens or text or request.finish_reason):
            return None
        return Chunk(text, tokens, request.finish_reason, len(request.ids))


class Stream(AsyncIterator[Chunk]):
    """The chunks of one answer, for one reader. It ends after the chunk with a `finish_reason`.

    Cancelling a read cancels the request. To read with a timeout, use `asyncio.wait` over a task, not
    `asyncio.wait_for`, which would cancel the read.
    """

    def __init__(self, ticket: _Ticket, cancel: Callable[[_Ticket], None], pause: float):
        """Made by `AsyncEngine.stream`."""
        self._ticket, self._cancel, self._pause, self._ended = ticket, cancel, pause, False
        self._begun = False

    async def __anext__(self) -> Chunk:
        """Return the next chunk.

        Raises:
            BadSample: the request is at fault.
            EngineFailed: the engine failed.
        """
        if self._ended:
            raise StopAsyncIteration
        items = self._ticket.items
        try:
            if self._begun and self._pause and not self._ticket.ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause):
                        await self._ticket.ended.wait()
            found = [await items.get()]
        except BaseException:
            self.close()
            raise
        while not isinstance(found[-1], Exception) and not items.empty():
            found.append(items.get_nowait())
        self._begun = True
        last = found[-1]
        if isinstance(last, Exception):  # earlier chunks are useless now
            self._ended = True
            raise last
        self._ended = bool(last.finish_reason)
        return last if len(found) == 1 else _joined([one for one in found if isinstance(one, Chunk)])

    def close(self) -> None:
        """Cancel the request if it is not done."""
        if not self._ended:
            self._ended = True
            self._cancel(self._ticket)

    async def aclose(self) -> None:
        """Call `close`; for `contextlib.aclosing`."""
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncEngine:
    """Runs an engine on its own thread and streams the answers.

    Attributes:
        failure: what broke the engine for good; None while it works.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256, max_failures_in_a_row: int = 3):
        """Start the thread. Nothing else may use the engine from now on.

        Args:
            engine: must be idle.
            max_waiting: requests allowed in addition to those that hold a slot.
            max_failures_in_a_row: steps that may raise without an answered request in between.
        """
        self.failure: BaseException | None = None
        self._engine, self._max_waiting, self._max_failures = engine, max_waiting, max_failures_in_a_row
        self._lock = threading.Lock()
        self._closing = False
        self._streams = 0
        """Open streams; guarded by the lock, like `_closing`."""
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """Functions for the engine's thread to call between two steps."""
        self._tickets: dict[Request, _Ticket] = {}
        """Tickets of the requests in the engine. Only the engine's thread uses this, `_failures` and `_ending`."""
        self._failures = 0
        self._ending = False
        self._over: Future[None] = Future()
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    async def __aenter__(self) -> AsyncEngine:
        """Return the service itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, and cancel open streams."""
        await self.aclose()

    @property
    def open_streams(self) -> int:
        """Number of requests that wait or run."""
        return self._streams

    def stream(self, request: Request, *, pause: float = 0.0) -> Stream:
        """Queue a request; return its chunks as an async iterator. Call it in a running event loop.

        Args:
            request: a new one; it belongs to the engine from now on.
            pause: seconds between chunks, except before the first and the last; what is generated meanwhile is joined.

        Raises:
            Overloaded: the queue is full.
            EngineFailed: the engine is broken.
            EngineClosed: the engine is closing.
        """
        if request.done or request.tokens:
            raise ValueError("this request has already run; create a new Request from its ids and images")
        request.stream = True
        ticket = _Ticket(request, asyncio.get_running_loop())
        with self._lock:
            if self.failure is not None:
                raise EngineFailed("the engine failed repeatedly and takes no more requests") from self.failure
            if self._closing:
                raise EngineClosed("the engine is closing")
            if self._streams >= self._engine.slots + self._max_waiting:
                raise Overloaded(f"{self._streams} requests are already open; try again later")
            self._streams += 1
            self._inbox.put(partial(self._submit, ticket))
        return Stream(ticket, self._cancel, pause)

    def metrics(self, ceilings: Ceilings | None = None) -> dict[str, float]:
        """Return `Metrics.summary` and the numbers of open `streams`, requests `waiting` for a slot, and `slots`.

        May be called from any thread at any time. A step in progress may be counted in part.
        """
        slots, streams = self._engine.slots, self._streams
        now: dict[str, float] = {"streams": streams, "waiting": max(0, streams - slots), "slots": slots}
        return self._engine.metrics.summary(ceilings) | now

    async def aclose(self, *, drain: bool = False) -> None:
        """Refuse new requests and end the thread. May be called again, even while another call drains.

        Args:
            drain: wait for open streams to finish; otherwise they are cancelled.
        """
        with self._lock:
            self._closing = True
            self._inbox.put(partial(self._finish, cancel=not drain))
        await asyncio.shield(asyncio.wrap_future(self._over))

    def _cancel(self, ticket: _Ticket) -> None:
        # no lock: a stream can be collected anywhere, even while the lock is held
        self._inbox.put(partial(self._cancel_now, ticket))

    # The methods below run on the engine's thread.

    def _run(self) -> None:
        try:
            while not (self._ending and not self._tickets) and self.failure is None:
                self._read_inbox(wait=self._engine.idle)
                if not self._engine.idle:
                    self._step()
        except BaseException as error:  # such as too little memory to restart; no reader may wait forever
            self._break(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._over.set_result(None)

    def _read_inbox(self, *, wait: bool) -> None:
        """Call the functions in the inbox; with `wait`, block until there is one."""
        with suppress(queue.Empty):
            while True:
                message = self._inbox.get(block=wait)
                message()
                wait = False

    def _submit(self, ticket: _Ticket) -> None:
        if self.failure is not None:
            self._end([ticket], self.failure)
            return
        self._tickets[ticket.request] = ticket
        try:
            self._engine.submit(ticket.request)
        except Exception as error:  # a malformed request, such as ids that are not numbers
            self._end([ticket], error)
        else:
            self._deliver([ticket.request])

    def _cancel_now(self, ticket: _Ticket) -> None:
        if ticket.request in self._tickets:
            self._engine.cancel(ticket.request)
            self._deliver([ticket.request])

    def _finish(self, *, cancel: bool) -> None:
        """End the thread as soon as no stream is open; `cancel` those that are."""
        self._ending = True
        if cancel:
            for request in self._tickets:
                self._engine.cancel(request)
            self._deliver(list(self._tickets))

    def _step(self) -> None:
        try:
            touched = self._engine.step()
        except Exception as error:
            self._failures += 1
            traceback.clear_frames(error.__traceback__)  # the frames hold tensors, and readers may keep the error
            self._end(list(self._tickets.values()), error)
            self._engine.cancel_all()
            if self._failures >= self._max_failures:
                self._break(error)
            return
        if any(request.done and request.error is None for request in touched):
            self._failures = 0
        self._deliver(touched)

    def _break(self, error: BaseException) -> None:
        """Stop for good, and fail all requests, including those still in the inbox."""
        with self._lock:
            self.failure = error
        self._end(list(self._tickets.values()), error)
        self._read_inbox(wait=False)

    def _end(self, tickets: Iterable[_Ticket], error: BaseException) -> None:
        """Fail these requests with this cause."""
        for ticket in tickets:
            self._tickets.pop(ticket.request, None)
            failed = EngineFailed(f"the engine failed: {error!r}")
            failed.__cause__ = error
            with self._lock:
                self._streams -= 1
            self._send(ticket.loop, [(ticket, failed)])

    def _deliver(self, requests: Iterable[Request]) -> None:
        """Send what is new in these requests to their streams, with one call per event loop."""
        items: defaultdict[asyncio.AbstractEventLoop, list[tuple[_Ticket, Chunk | Exception]]] = defaultdict(list)
        for request in dict.fromkeys(requests):  # a step may touch one twice
            ticket = self._tickets[request]
            if (item := ticket.next_chunk()) is not None:
                items[ticket.loop].append((ticket, item))
            if request.done:
                del self._tickets[request]
                with self._lock:
                    self._streams -= 1
        for loop, of_loop in items.items():
            self._send(loop, of_loop)

    def _send(self, loop: asyncio.AbstractEventLoop, items: list[tuple[_Ticket, Chunk | Exception]]) -> None:
        try:
            loop.call_soon_threadsafe(_hand_out, items)
        except RuntimeError:  # the loop is closed, so nothing will be read
            for ticket, _ in items:
                self._cancel(ticket)


def _hand_out(items: list[tuple[_Ticket, Chunk | Exception]]) -> None:
    for ticket, item in items:
        ticket.items.put_nowait(item)
        if isinstance(item, Exception) or item.finish_reason:
            ticket.ended.set()


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    """Join several chunks into one."""
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
    )
