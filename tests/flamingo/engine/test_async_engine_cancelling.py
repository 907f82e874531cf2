"""Whoever leaves gives up its slot, and closing the service drains or cancels its streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from polite_flamingo.flamingo.engine.async_engine import AsyncEngine, EngineClosed, Stream
from tests.support.async_streams import Gate, Known, all_of, endless, engine_of, joined, run
from tests.support.engine_requests import fresh


async def closes(stream: Stream) -> None:
    async with aclosing(stream):
        await anext(stream)


async def breaks(stream: Stream) -> None:
    async for _ in stream:
        break


async def is_cancelled(stream: Stream) -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [closes, breaks, is_cancelled])
def test_who_leaves_gives_up_his_slot(
    known: Known, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Stream], Awaitable[None]]
) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=1)
    gate = Gate(engine, monkeypatch)
    left = endless(model)

    async def main() -> None:
        async with AsyncEngine(engine) as service:
            gate.allow(3)
            await leave(service.stream(left))
            gate.open()
            assert joined(await all_of(service.stream(fresh(wanted)[0])))[0] == said[0]
            assert service.metrics()["streams"] == 0

    run(main)
    assert left.finish_reason == "cancelled" and len(left.tokens) <= 5, (
        "at most the steps that were allowed, of two tokens"
    )


def test_what_nobody_reads_is_cancelled_while_it_waits(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=1)
    gate = Gate(engine, monkeypatch)
    forgotten = endless(model)

    async def main() -> None:
        async with AsyncEngine(engine) as service:
            first = service.stream(fresh(wanted)[0])
            service.stream(forgotten)  # the stream is dropped at once
            third = service.stream(fresh(wanted)[1])
            gate.open()
            assert joined(await all_of(first))[0] == said[0]
            assert joined(await all_of(third))[0] == said[1]

    run(main)
    assert forgotten.finish_reason == "cancelled" and not forgotten.tokens


@pytest.mark.parametrize("drain", [True, False])
def test_closing_drains_or_cancels(known: Known, monkeypatch: pytest.MonkeyPatch, drain: bool) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=2)
    gate = Gate(engine, monkeypatch)

    async def main() -> None:
        service = AsyncEngine(engine)
        streams = [service.stream(one) for one in fresh(wanted)]
        gate.allow()
        await anext(streams[0])
        closing = asyncio.create_task(service.aclose(drain=drain))
        await asyncio.sleep(0)
        with pytest.raises(EngineClosed):
            service.stream(fresh(wanted)[0])
        gate.open()
        heard = [joined(await all_of(stream)) for stream in streams]
        await closing
        await service.aclose()
        if drain:
            assert [tokens for tokens, _, _ in heard[1:]] == said[1:]
        else:
            assert {finish for _, _, finish in heard} == {"cancelled"}
        assert engine.idle

    run(main)


def test_who_has_no_patience_may_stop_a_drain(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(known[0], slots=1)
    gate = Gate(engine, monkeypatch)

    async def main() -> None:
        service = AsyncEngine(engine)
        stream = service.stream(endless(known[0]))
        gate.allow()
        await anext(stream)
        draining = asyncio.create_task(service.aclose(drain=True))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(service.aclose())
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(draining, stopping)
        assert joined(await all_of(stream))[2] == "cancelled"

    run(main)


def test_a_reader_whose_loop_is_gone_blocks_nobody(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=1)
    gate = Gate(engine, monkeypatch)
    left = endless(model)
    made: list[AsyncEngine | Stream] = []

    async def asks_and_ends() -> None:
        service = AsyncEngine(engine)
        made.extend((service, service.stream(left)))

    asyncio.run(asks_and_ends())
    service = made[0]
    assert isinstance(service, AsyncEngine)

    async def asks() -> None:
        gate.open()
        assert joined(await all_of(service.stream(fresh(wanted)[0])))[0] == said[0]
        await service.aclose()

    run(asks)
    assert left.finish_reason == "cancelled" and len(left.tokens) < 10
