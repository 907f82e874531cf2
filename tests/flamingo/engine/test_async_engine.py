"""Many ask at once, and each hears its own answer."""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from polite_flamingo.flamingo.engine.async_engine import AsyncEngine, Overloaded
from tests.support.async_streams import Gate, Known, all_of, engine_of, joined, run
from tests.support.engine_requests import NEW, fresh


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


def test_a_request_is_run_once(known: Known) -> None:
    model, wanted, _ = known

    async def main() -> None:
        async with AsyncEngine(engine_of(model, slots=1)) as service:
            request = fresh(wanted)[0]
            await all_of(service.stream(request))
            with pytest.raises(ValueError, match="create a new Request"):
                service.stream(request)

    run(main)
