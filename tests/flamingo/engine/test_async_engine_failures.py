"""What fails fails where it belongs: in its own stream, in all open ones, or for good."""

from __future__ import annotations

import asyncio
import threading

import pytest

from polite_flamingo.flamingo.engine.async_engine import AsyncEngine, EngineFailed
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.sample import BadSample
from tests.support.async_streams import Gate, Known, all_of, engine_of, joined, run
from tests.support.engine_requests import fresh


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
