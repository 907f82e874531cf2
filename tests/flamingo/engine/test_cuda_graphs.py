"""Steps over buffers that never move give the same texts. What a GPU records, a CPU runs step by step here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine import cuda_graphs
from polite_flamingo.flamingo.engine.cuda_graphs import StaticStep, rounded_limit, rounded_rows
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import KVCache
from tests.support.engine_requests import fresh, prompts, stop_token_ids_of, texts

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

GREEDY = SamplingParams(max_new_tokens=14)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode with torch, as on a GPU, instead of the CPU kernels."""
    monkeypatch.setattr("polite_flamingo.flamingo.model.layers.compiled", lambda x: False)


def statically(model: FlamingoModel, requests: Sequence[Request], **config: int) -> list[list[int]]:
    """Return what the engine generates with the steps that a GPU would record."""
    engine = Engine(model, EngineConfig(**config), stop_token_ids=stop_token_ids_of(model))
    engine._runner.uses_graphs = True
    engine.generate(requests)
    assert all(request.done and request.error is None for request in requests)
    return [request.tokens for request in requests]


class Watch:
    """Notes each run of a `StaticStep`, and each upload."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.beside = self.filled = self.runs = self.uploads = 0
        run, upload = StaticStep.run, cuda_graphs.upload

        def watched_run(step: StaticStep, ids: Sequence[int], positions: Sequence[int], seeing: bool) -> torch.Tensor:
            self.runs += 1
            rows = rounded_rows(len(ids), step._slots)
            self.filled += rows > len(positions)
            self.beside += any(place > 0 for place in positions[len(ids) : rows])
            return run(step, ids, positions, seeing)

        def watched_upload(*given: object) -> torch.Tensor:
            self.uploads += 1
            return upload(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(StaticStep, "run", watched_run)
        monkeypatch.setattr(cuda_graphs, "upload", watched_upload)


@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_texts_are_those_of_steps_that_fit(
    kind: str, attention: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(kind).load(attention=attention)
    wanted = [replace(one, params=GREEDY) for one in prompts(model, 30, seed=len(kind))]
    expected = texts(model, fresh(wanted), slots=30)
    watch = Watch(monkeypatch)
    # 48 slots are filled up three by three; a budget of 24 keeps prompts half-run beside rows that decode
    assert statically(model, fresh(wanted), slots=48, prefill_tokens=24, refills=48) == expected
    assert watch.beside > 3, "rows whose prompt is being run must be among those that only fill up"
    assert watch.filled, "and rows that nobody uses"
    assert statically(model, fresh(wanted), slots=5) == expected


def test_nothing_is_uploaded_while_the_same_rows_go_on(tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = [replace(one, params=GREEDY) for one in prompts(model, 6, seed=2)]
    plain, static = (Engine(model, EngineConfig(slots=6), stop_token_ids=[]) for _ in range(2))
    static._runner.uses_graphs = True
    expected = fresh(wanted)
    plain.generate(expected)
    watch = Watch(monkeypatch)
    static.generate(wanted)
    assert [one.tokens for one in wanted] == [one.tokens for one in expected]
    assert (watch.runs, watch.uploads) == (13, 1)


def test_other_than_the_likeliest_tokens_are_chosen_as_ever(tiny) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = prompts(model, 30, seed=4)  # of which half may not repeat n-grams
    drawn = SamplingParams(max_new_tokens=9, temperature=1.3, top_k=40)
    wanted[::5] = [replace(one, params=replace(drawn, seed=n)) for n, one in enumerate(wanted[::5])]
    assert statically(model, fresh(wanted), slots=6) == texts(model, fresh(wanted), slots=6)


def test_memory_that_grows_shrinks_or_is_given_up_gets_new_recordings(tiny, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load()
    wanted = [replace(one, params=GREEDY) for one in prompts(model, 24, seed=8)]
    expected = texts(model, fresh(wanted), slots=24)
    engine = Engine(model, EngineConfig(slots=16), stop_token_ids=stop_token_ids_of(model))
    engine._runner.uses_graphs = True
    step = engine.decoder.step

    def tight(ids: torch.Tensor, *more: object) -> torch.Tensor:
        if len(ids) > 8:
            raise torch.OutOfMemoryError("as a GPU would say")
        return step(ids, *more)  # type: ignore[arg-type]

    made = []
    monkeypatch.setattr(engine.decoder, "step", tight)
    monkeypatch.setattr(
        "polite_flamingo.flamingo.engine.model_runner.StaticStep",
        lambda *given, **named: made.append(StaticStep(*given, **named)) or made[-1],
    )
    short = sorted(fresh(wanted), key=lambda one: (bool(one.images), len(one.ids)))
    for request in short:  # short ones without images first: the cache has to grow and images come late
        engine.submit(request)
        engine.step()
    engine.cancel(short[-1])
    engine.cancel_all()
    assert engine._runner.static is None
    again = fresh(wanted)
    engine.generate(again)
    assert [one.tokens for one in again] == expected
    assert len(made) > 3 and engine.slots <= 8
    assert all(one is made[-1] or one._cache is not engine._slots.cache for one in made)


@pytest.mark.parametrize("decoding", [1, 3, 5])
def test_rows_that_only_fill_up_are_written_where_nobody_looks(tiny_grouped, decoding: int) -> None:  # type: ignore[no-untyped-def]
    decoder = Decoder(tiny_grouped.load(attention="v1"))
    cache = decoder.new_cache(rows=32, capacity=128)
    cache.data.normal_()
    before = cache.data.clone()
    positions = [20, 3, 70, 9, 66, 50, 0, 127]  # of rows in use; those behind the decoding ones are written there
    step = StaticStep(decoder, cache, None, slots=32, image_id=7)
    ids = [11, 12, 13, 14, 15][:decoding]
    logits = step.run(ids, positions, False).clone()
    changed = (cache.data != before).any(dim=-1).any(dim=3).any(dim=1).any(dim=0).nonzero().tolist()
    rows = rounded_rows(decoding, 32)
    assert changed == [[row, (positions + [0] * 32)[row]] for row in range(rows)]
    alone = KVCache(before)
    found = decoder.step(torch.tensor(ids), torch.tensor(positions[:decoding]), alone, 128, None).clone()
    found[:, 7] = -torch.inf
    torch.testing.assert_close(logits, found, atol=1e-4, rtol=1e-5)  # sums of other shapes round differently
    assert step.likeliest() == found.argmax(dim=-1).tolist()


def test_a_recording_serves_many_counts_and_wastes_little() -> None:
    for slots in (1, 2, 5, 16, 31, 64, 256):
        sizes = [rounded_rows(count, slots) for count in range(1, slots + 1)]
        assert all(count <= size <= slots for count, size in enumerate(sizes, start=1))
        assert sizes == sorted(sizes) and len(set(sizes)) <= 21
        assert all(size - count < max(count, -(-slots // 16)) for count, size in enumerate(sizes, start=1))
    assert [rounded_limit(places, 200) for places in (1, 64, 65, 190, 200)] == [64, 64, 128, 192, 200]


class Pretended(StaticStep):
    """Takes the GPU's code path on a CPU: calls during a recording are not run but noted, and replayed later."""

    making: list[tuple[Callable[..., None], tuple[object, ...]]] | None = None
    replays = 0

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._cuda, self._stream, self._pool, self._arrived = True, mock.MagicMock(), (0, 1), mock.MagicMock()
        self._tokens = torch.zeros(self._slots, dtype=torch.int64)

    def _forward(self, *key: Any) -> None:
        self._note(super()._forward, key)

    def _advance(self, *rows: Any) -> None:
        self._note(super()._advance, rows)

    def _note(self, work: Callable[..., None], given: tuple[object, ...]) -> None:
        if Pretended.making is None:
            work(*given)
        else:
            Pretended.making.append((work, given))


class PretendedGraph:
    def __init__(self) -> None:
        self.notes: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def replay(self) -> None:
        Pretended.replays += 1
        for work, given in self.notes:
            work(*given)


@contextmanager
def pretended_recording(graph: PretendedGraph, **how: object) -> Iterator[None]:
    Pretended.making = graph.notes
    yield
    Pretended.making = None


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_recordings_are_made_once_replayed_and_forgotten(tiny, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = tiny.load(attention=attention)
    wanted = [replace(one, params=GREEDY) for one in prompts(model, 24, seed=6)]
    expected = texts(model, fresh(wanted), slots=6)
    monkeypatch.setattr("polite_flamingo.flamingo.engine.model_runner.StaticStep", Pretended)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", PretendedGraph)
    monkeypatch.setattr(torch.cuda, "graph", pretended_recording)
    for name in ("current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    made = []
    record = Pretended._recording
    monkeypatch.setattr(Pretended, "_recording", lambda step, key: made.append(key) or record(step, key))
    monkeypatch.setattr(Pretended, "replays", 0)
    monkeypatch.setattr(cuda_graphs, "RECORDINGS", 4)
    engine = Engine(model, EngineConfig(slots=6, prefill_tokens=40), stop_token_ids=stop_token_ids_of(model))
    engine._runner.uses_graphs = True
    again = fresh(wanted)
    engine.generate(again)
    assert [one.tokens for one in again] == expected
    assert Pretended.replays == len(made) > 4 * len(set(made)) > 16, "many steps, few recordings"
    assert engine._runner.static is not None and len(engine._runner.static._graphs) == 4
    assert made[-1] == list(engine._runner.static._graphs._values)[-1], "the least recently used is forgotten first"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU")
@pytest.mark.parametrize("kind", ["tiny", "tiny_grouped", "tiny_mpt"])
@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_recordings_on_a_gpu_write_the_same_texts(kind: str, attention: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind).load(attention=attention)
    wanted = prompts(model, 30, seed=1)  # half of them may not repeat n-grams
    wanted[::2] = [replace(one, params=GREEDY) for one in wanted[::2]]
    expected = texts(model, fresh(wanted), slots=30)
    model.to("cuda")
    engine = Engine(model, EngineConfig(slots=12, prefill_tokens=40), stop_token_ids=stop_token_ids_of(model))
    for _ in range(2):  # the second time with the recordings of the first
        again = fresh(wanted)
        engine.generate(again)
        assert [one.tokens for one in again] == expected
    assert engine._runner.static is not None and engine._runner.static._graphs
