"""The engine as a service inside a process: any number of asyncio tasks ask, one thread of its own runs the engine.

    async with AsyncEngine(engine, max_waiting=64) as service:
        async for chunk in service.stream(Request(ids=..., decoding=...)):
            print(chunk.text, end="")

Streams that are open at the same time share the engine's batch. A stream that is closed, dropped, or whose reader is
cancelled, gives its slot to others with the next step. The thread sleeps while there is nothing to do.

What goes wrong reaches whom it concerns. A request that fails alone raises its `BadSample` in its own stream. A step
that raises fails all open streams with `EngineFailed`, whose cause it is, and the engine starts afresh for new ones;
after several failures with no good answer in between (a GPU that is lost stays lost) it takes no more, `failure` says
why, and whoever runs the process should replace it.

It knows no web framework and no Ray, and nothing of prompts. Beam search cannot be streamed.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.roofline import Ceilings
from polite_flamingo.sample import BadSample


class Overloaded(RuntimeError):
    """As many requests wait as may; try again later. An HTTP server answers 429."""


class EngineFailed(RuntimeError):
    """The engine failed while this request ran, or is broken for good, by its cause. An HTTP server answers 500."""


class EngineClosed(RuntimeError):
    """The engine is closing and takes no more requests. An HTTP server answers 503."""


@dataclass(frozen=True)
class Chunk:
    """What was generated since the chunk before.

    Attributes:
        text: no later token changes it; it may lag behind the tokens (see `detokenizer.py`).
        tokens: their ids.
        finish: "stop", "length" or "cancelled" in the last chunk, else "".
        prompt_tokens: length of the prompt, where an image counts as one; the same in every chunk.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str = ""
    prompt_tokens: int = 0


@dataclass(eq=False)
class _Ticket:
    """A request's way back to its stream. The worker holds it, and does not hold the stream."""

    request: Request
    loop: asyncio.AbstractEventLoop
    items: asyncio.Queue[Chunk | Exception] = field(default_factory=asyncio.Queue)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing more will come."""
    tokens: int = 0
    characters: int = 0

    def news(self) -> Chunk | Exception | None:
        """What has come since it was asked last; None where nothing has."""
        request = self.request
        if request.error is not None:
            return BadSample(request.error.reason, request.error.detail)  # requests of one broken image share theirs
        text, tokens = request.text[self.characters :], tuple(request.tokens[self.tokens :])
        self.tokens, self.characters = len(request.tokens), len(request.text)
        return Chunk(text, tokens, request.finish, len(request.ids)) if tokens or text or request.finish else None


class Stream(AsyncIterator[Chunk]):
    """The chunks of one answer, for one reader. It ends after the chunk that has a finish.

    A cancelled read cancels the request, so a reader that wants to look at a clock meanwhile must shield its read
    (`asyncio.wait` over a task), not cut it off (`asyncio.wait_for`).
    """

    def __init__(self, ticket: _Ticket, cancel: Callable[[_Ticket], None], pause: float):
        """Made by `AsyncEngine.stream`."""
        self._ticket, self._cancel, self._pause, self._ended = ticket, cancel, pause, False
        self._begun = False

    async def __anext__(self) -> Chunk:
        """The next chunk.

        Raises:
            BadSample: the request is at fault.
            EngineFailed: the engine is.
        """
        if self._ended:
            raise StopAsyncIteration
        items = self._ticket.items
        try:
            if self._begun and self._pause and not self._ticket.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause):
                        await self._ticket.over.wait()
            found = [await items.get()]
        except BaseException:
            self.close()
            raise
        while not isinstance(found[-1], Exception) and not items.empty():
            found.append(items.get_nowait())
        self._begun = True
        last = found[-1]
        if isinstance(last, Exception):  # what came before it is of no use any more
            self._ended = True
            raise last
        self._ended = bool(last.finish)
        return last if len(found) == 1 else _joined([one for one in found if isinstance(one, Chunk)])

    def close(self) -> None:
        """Want no more: the request is cancelled where it is not done."""
        if not self._ended:
            self._ended = True
            self._cancel(self._ticket)

    async def aclose(self) -> None:
        """The same, as `contextlib.aclosing` wants it."""
        self.close()

    def __del__(self) -> None:
        self.close()


_Message = tuple[Literal["submit", "cancel", "drain", "stop"], _Ticket | None]


class AsyncEngine:
    """See the module.

    Attributes:
        failure: that broke the engine for good; None while it works.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256, max_failures_in_a_row: int = 3):
        """From now on the engine is used by nobody else.

        Args:
            engine: idle.
            max_waiting: requests beyond those that have a slot.
            max_failures_in_a_row: steps that may raise with no request answered in between.
        """
        self.failure: BaseException | None = None
        self._engine, self._max_waiting, self._max_failures = engine, max_waiting, max_failures_in_a_row
        self._lock = threading.Lock()
        self._closing = False
        self._streams = 0
        """Open ones; like `_closing`, under the lock."""
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._tickets: dict[Request, _Ticket] = {}
        """Of the requests that the engine has, seen by the worker alone; so is the next."""
        self._failures = 0
        self._over: Future[None] = Future()
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    async def __aenter__(self) -> AsyncEngine:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close, cancelling what is open."""
        await self.aclose()

    @property
    def open_streams(self) -> int:
        """Requests that wait or run."""
        return self._streams

    def stream(self, request: Request, *, pause: float = 0.0) -> Stream:
        """Queue a request; its chunks come as an async iterator. To be called in a running event loop.

        Args:
            request: a fresh one, which belongs to the engine from now on.
            pause: seconds between two chunks, except the first and the last; what is generated meanwhile is one chunk.

        Raises:
            Overloaded: too many wait.
            EngineFailed: the engine is broken.
            EngineClosed: it is closing.
        """
        if request.done or request.tokens:
            raise ValueError("this request was run before; make a new Request of its ids and images")
        request.follow = True
        ticket = _Ticket(request, asyncio.get_running_loop())
        with self._lock:
            if self.failure is not None:
                raise EngineFailed("the engine failed again and again and takes no more requests") from self.failure
            if self._closing:
                raise EngineClosed("the engine is closing")
            if self._streams >= self._engine.slots + self._max_waiting:
                raise Overloaded(f"{self._streams} requests are open already; try again later")
            self._streams += 1
            self._inbox.put(("submit", ticket))
        return Stream(ticket, self._cancel, pause)

    def metrics(self, ceilings: Ceilings | None = None) -> dict[str, float]:
        """`Metrics.summary`, and how many `streams` are open, are `waiting` for a slot, and how many `slots` there are.

        May be called anywhere at any time. Numbers of a step that is going on may be counted in part.
        """
        slots, streams = self._engine.slots, self._streams
        now: dict[str, float] = {"streams": streams, "waiting": max(0, streams - slots), "slots": slots}
        return self._engine.metrics.summary(ceilings) | now

    async def aclose(self, *, drain: bool = False) -> None:
        """Take no more requests, and end the thread. May be called again, also while another call drains.

        Args:
            drain: let open streams come to their end; else they are cancelled.
        """
        with self._lock:
            self._closing = True
            self._inbox.put(("drain" if drain else "stop", None))
        await asyncio.shield(asyncio.wrap_future(self._over))

    def _cancel(self, ticket: _Ticket) -> None:
        self._inbox.put(("cancel", ticket))  # no lock: a stream may be collected anywhere, also where one is held

    # What follows runs on the worker's thread.

    def _work(self) -> None:
        try:
            closing = False
            while not (closing and not self._tickets) and self.failure is None:
                for what, ticket in self._messages():
                    closing |= what in ("drain", "stop")
                    self._obey(what, ticket)
                if not self._engine.idle:
                    self._step()
        except BaseException as error:  # such as no memory even to start afresh; nobody must wait for ever
            self._break(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._over.set_result(None)

    def _messages(self) -> Iterator[_Message]:
        """What has come in; where there is nothing else to do, wait for it."""
        wait = self._engine.idle
        while True:
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return
            yield message
            wait = False

    def _obey(self, what: str, ticket: _Ticket | None) -> None:
        if what == "stop":
            everything = list(self._tickets)
            for request in everything:
                self._engine.cancel(request)
            self._deliver(everything)
        elif what == "submit" and ticket is not None:
            self._tickets[ticket.request] = ticket
            try:
                self._engine.submit(ticket.request)
            except Exception as error:  # of a request that is none, like ids that are no numbers
                self._end([ticket], error)
            else:
                if ticket.request.done:
                    self._deliver([ticket.request])
        elif ticket is not None and ticket.request in self._tickets:
            self._engine.cancel(ticket.request)
            self._deliver([ticket.request])

    def _step(self) -> None:
        try:
            touched = self._engine.step()
        except Exception as error:
            self._failures += 1
            traceback.clear_frames(error.__traceback__)  # they hold tensors, and readers may keep the error
            self._end(list(self._tickets.values()), error)
            self._engine.abandon()
            if self._failures >= self._max_failures:
                self._break(error)
            return
        if any(request.done and request.error is None for request in touched):
            self._failures = 0
        self._deliver(touched)

    def _break(self, error: BaseException) -> None:
        """For good: whoever is here or on the way learns it."""
        with self._lock:
            self.failure = error
        self._end(list(self._tickets.values()), error)
        while True:
            try:
                what, ticket = self._inbox.get(block=False)
            except queue.Empty:
                return
            if what == "submit" and ticket is not None:
                self._end([ticket], error)

    def _end(self, tickets: Iterable[_Ticket], error: BaseException) -> None:
        """Fail them with this cause."""
        for ticket in tickets:
            self._tickets.pop(ticket.request, None)
            failed = EngineFailed(f"the engine failed: {error!r}")
            failed.__cause__ = error
            with self._lock:
                self._streams -= 1
            self._send(ticket.loop, [(ticket, failed)])

    def _deliver(self, requests: Iterable[Request]) -> None:
        """Send the news of these requests to their streams, one call an event loop."""
        news: defaultdict[asyncio.AbstractEventLoop, list[tuple[_Ticket, Chunk | Exception]]] = defaultdict(list)
        for request in dict.fromkeys(requests):  # a step may touch one twice
            ticket = self._tickets[request]
            if (item := ticket.news()) is not None:
                news[ticket.loop].append((ticket, item))
            if request.done:
                del self._tickets[request]
                with self._lock:
                    self._streams -= 1
        for loop, items in news.items():
            self._send(loop, items)

    def _send(self, loop: asyncio.AbstractEventLoop, items: list[tuple[_Ticket, Chunk | Exception]]) -> None:
        try:
            loop.call_soon_threadsafe(_hand_out, items)
        except RuntimeError:  # the loop is closed, so nobody will read
            for ticket, _ in items:
                self._cancel(ticket)


def _hand_out(items: list[tuple[_Ticket, Chunk | Exception]]) -> None:
    for ticket, item in items:
        ticket.items.put_nowait(item)
        if isinstance(item, Exception) or item.finish:
            ticket.over.set()


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks as one."""
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
    )
