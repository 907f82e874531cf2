"""Helpers for tests of the `AsyncEngine`: engines that step on demand, and streams read to their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.async_engine import Chunk, Stream
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from tests.support.engine_requests import fresh, prompts, stop_token_ids_of, texts
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

Known = tuple["FlamingoModel", list[Request], list[list[int]]]
"""A model, requests, and what the engine answers to them at once."""


@pytest.fixture(scope="session")
def known(tiny) -> Known:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = [one for one in prompts(model, 40, seed=8) if len(one.ids) < 60]
    said = texts(model, fresh(wanted), slots=8)
    long = [number for number, tokens in enumerate(said) if len(tokens) >= 5]
    assert len(long) >= 10
    return model, [wanted[number] for number in long[:10]], [said[number] for number in long[:10]]


class Gate:
    """Lets an engine make only as many steps as it is allowed."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch):
        self._allowed = threading.Semaphore(0)
        self._open = threading.Event()
        self.steps = 0
        step = engine.step

        def gated() -> list[Request]:
            if not self._open.is_set():
                self._allowed.acquire()
            self.steps += 1
            return step()

        monkeypatch.setattr(engine, "step", gated)

    def allow(self, steps: int = 1) -> None:
        self._allowed.release(steps)

    def open(self) -> None:
        self._open.set()
        self._allowed.release()


def engine_of(model: FlamingoModel, slots: int) -> Engine:
    return Engine(model, EngineConfig(slots=slots), stop_token_ids=stop_token_ids_of(model))


def endless(model: FlamingoModel) -> Request:
    """Return a request whose answer has 300 tokens, because nothing ends it."""
    return Request(ids=[5, 6, 7], params=SamplingParams(max_new_tokens=300))


async def all_of(stream: Stream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def joined(chunks: Sequence[Chunk]) -> tuple[list[int], str, str]:
    assert [bool(chunk.finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True], (
        "the last chunk ends it"
    )
    return (
        [token for chunk in chunks for token in chunk.tokens],
        "".join(p.text for p in chunks),
        chunks[-1].finish_reason,
    )


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), PATIENCE)  # fails rather than hangs; nothing is asserted about time

    asyncio.run(bounded())
