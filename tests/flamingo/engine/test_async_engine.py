"""Many ask at once, each hears its own answer; who leaves gives up his slot, and what fails fails where it belongs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.async_engine import (
    AsyncEngine,
    Chunk,
    EngineClosed,
    EngineFailed,
    Overloaded,
    Stream,
)
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.sample import BadSample
from tests.flamingo.engine.test_engine import NEW, fresh, prompts, stop_token_ids_of, texts
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

Known = tuple["FlamingoModel", list[Request], list[list[int]]]
"""A model, requests, and what the engine says to them at once."""


@pytest.fixture(scope="module")
def known(tiny) -> Known:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = [one for one in prompts(model, 40, seed=8) if len(one.ids) < 60]
    said = texts(model, fresh(wanted), slots=8)
    long = [number for number, tokens in enumerate(said) if len(tokens) >= 5]
    assert len(long) >= 10
    return model, [wanted[number] for number in long[:10]], [said[number] for number in long[:10]]


class Gate:
    """The engine makes as many steps as it was allowed."""

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
    """Whose answer has 300 tokens: nothing ends it."""
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


def test_streams_share_the_batch_and_each_gets_its_own_answer(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=8)
    gate = Gate(engine, monkeypatch)

    async def main() -> None:
        async with AsyncEngine(engine) as service:
            streams = [service.stream(one) for one in fresh(wanted)]
            assert service.metrics()["streams"] == 10 and service.metrics()["waiting"] == 2
            gate.open()
            heard = await asyncio.gather(*map(all_of, streams))
            assert service.metrics()["streams"] == 0
            assert service.metrics()["generated_tokens"] >= sum(map(len, said))
        for chunks, tokens in zip(heard, said, strict=True):
            assert joined(chunks)[:2] == (tokens, model.tokenizer.decode(tokens))
            assert joined(chunks)[2] == ("length" if len(tokens) == NEW else "stop")

    run(main)
    assert engine.metrics.steps < sum(map(len, said)) / 3, "they decode together"


def test_a_piece_is_there_before_the_next_step(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=2)
    gate = Gate(engine, monkeypatch)

    async def main() -> None:
        async with AsyncEngine(engine) as service:
            stream = service.stream(fresh(wanted)[0])
            heard: list[int] = []
            while len(heard) < 4:
                gate.allow()
                heard += (await anext(stream)).tokens
                assert heard == said[0][: len(heard)] and gate.steps < len(heard) + 1
            gate.open()

    run(main)


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


def test_a_request_at_fault_fails_alone(known: Known) -> None:
    model, wanted, said = known
    tag = model.tokenizer.image_id
    bad = [
        Request(ids=[5, tag, 6], images=[b"no image"]),
        Request(ids=[5, tag, 6], images=[b"no image"]),
        Request(ids=[5, tag, 6]),
        Request(ids=[5] * 600),
    ]

    async def main() -> None:
        async with AsyncEngine(engine_of(model, slots=4)) as service:
            good = [service.stream(one) for one in fresh(wanted)]
            streams = [service.stream(one) for one in bad]
            found = await asyncio.gather(*map(all_of, streams), return_exceptions=True)
            assert all(isinstance(one, BadSample) for one in found)
            assert [one.reason for one in found if isinstance(one, BadSample)] == [
                "corrupt_image", "corrupt_image", "bad_field", "text_too_long",
            ]  # fmt: skip
            assert await all_of(streams[0]) == [], "it has ended"
            assert [joined(await all_of(stream))[0] for stream in good] == said
            nonsense = Request(ids=["no", "numbers"])  # type: ignore[list-item]
            with pytest.raises(EngineFailed) as failed:
                await anext(service.stream(nonsense))
            assert isinstance(failed.value.__cause__, (TypeError, ValueError))
            assert service.failure is None

    run(main)


def test_a_failing_step_fails_who_is_there_and_the_next_is_served(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=2)
    step, gate = engine.decoder.step, Gate(engine, monkeypatch)
    broken = threading.Event()

    def sometimes(*args: object) -> object:
        if broken.is_set():
            raise RuntimeError("device-side assert")
        return step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "step", sometimes)

    async def main() -> None:
        async with AsyncEngine(engine, max_failures_in_a_row=5) as service:
            for _ in range(6):  # each fails one to four steps in a row, and then one is answered
                broken.set()
                streams = [service.stream(one) for one in fresh(wanted)[:4]]
                gate.open()
                for stream in streams:
                    with pytest.raises(EngineFailed, match="device-side assert") as failed:
                        await all_of(stream)
                    assert isinstance(failed.value.__cause__, RuntimeError)
                broken.clear()
                assert joined(await all_of(service.stream(fresh(wanted)[0])))[0] == said[0]
            assert service.failure is None

    run(main)


def test_an_engine_that_fails_again_and_again_says_so(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, _ = known
    engine = engine_of(model, slots=2)

    def broken(*_: object) -> None:
        raise RuntimeError("the GPU is lost")

    monkeypatch.setattr(engine.decoder, "prefill", broken)

    async def main() -> None:
        service = AsyncEngine(engine, max_failures_in_a_row=2)
        for _ in range(2):
            assert service.failure is None
            with pytest.raises(EngineFailed, match="the GPU is lost"):
                await all_of(service.stream(fresh(wanted)[0]))
        await asyncio.wrap_future(service._over)  # the thread has ended
        with pytest.raises(EngineFailed, match="takes no more") as refused:
            service.stream(fresh(wanted)[0])
        assert refused.value.__cause__ is service.failure
        await service.aclose()

    run(main)


def test_more_than_may_wait_are_refused(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=1)
    gate = Gate(engine, monkeypatch)

    async def main() -> None:
        async with AsyncEngine(engine, max_waiting=1) as service:
            first, second = (service.stream(one) for one in fresh(wanted)[:2])
            with pytest.raises(Overloaded, match="2 requests are already open"):
                service.stream(fresh(wanted)[2])
            gate.open()
            assert joined(await all_of(first))[0] == said[0]
            third = service.stream(fresh(wanted)[2])
            assert joined(await all_of(second))[0] == said[1]
            assert joined(await all_of(third))[0] == said[2]

    run(main)


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


def test_an_idle_engine_sleeps(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wanted, said = known
    engine = engine_of(model, slots=2)
    gate = Gate(engine, monkeypatch)
    gate.open()

    class Watched:
        """An inbox that says when its reader waits in it."""

        def __init__(self) -> None:
            self._inbox: queue.SimpleQueue = queue.SimpleQueue()  # type: ignore[type-arg]
            self.put, self.gets, self.asleep = self._inbox.put, 0, threading.Event()

        def get(self, block: bool) -> object:
            self.gets += 1
            if block:
                self.asleep.set()
            return self._inbox.get(block=block)

    inbox = Watched()
    module = SimpleNamespace(SimpleQueue=lambda: inbox, Empty=queue.Empty)
    monkeypatch.setattr("polite_flamingo.flamingo.engine.async_engine.queue", module)

    async def main() -> None:
        async with AsyncEngine(engine) as service:
            for number in range(3):
                await asyncio.to_thread(inbox.asleep.wait)
                gets, steps = inbox.gets, gate.steps
                await asyncio.sleep(0.05)  # longer only makes it stricter
                assert (inbox.gets, gate.steps) == (gets, steps)
                inbox.asleep.clear()
                assert joined(await all_of(service.stream(fresh(wanted)[number])))[0] == said[number]

    run(main)


def test_a_stop_text_is_never_heard(known: Known) -> None:
    model, wanted, said = known
    decode = model.tokenizer.decode
    cut = []
    for one, tokens in zip(wanted, said, strict=True):
        text = decode(tokens)
        stop = text[len(text) // 2 : len(text) // 2 + 3]
        cut.append((replace(one, params=replace(one.params, stop=(stop,)), tokens=[]), stop, text))

    async def main() -> None:
        async with AsyncEngine(engine_of(model, slots=3)) as service:
            heard = await asyncio.gather(*(all_of(service.stream(one)) for one, _, _ in cut))
        for chunks, (one, stop, text) in zip(heard, cut, strict=True):
            assert joined(chunks) == (one.tokens, one.text, "stop")
            assert stop not in one.text and text.startswith(one.text)

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


def test_a_request_is_run_once(known: Known) -> None:
    model, wanted, _ = known

    async def main() -> None:
        async with AsyncEngine(engine_of(model, slots=1)) as service:
            request = fresh(wanted)[0]
            await all_of(service.stream(request))
            with pytest.raises(ValueError, match="create a new Request"):
                service.stream(request)

    run(main)
