"""What `benchmarks/gpu/engine.py` measures, each a function that returns the seconds of its runs."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.attention import LOOKS
from benchmarks.gpu.model import Ids, Shape, mixed, picture
from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine import image_cache
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model import decoder, layers
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.images import decoding

Goes = Callable[[], bool]
"""Whether there is time for another run."""


@contextmanager
def engine_of(model: FlamingoModel, look: str, **config: Any) -> Iterator[Engine]:
    """An engine whose memory is given back afterwards; no token ends a text. Args: look: one of `LOOKS`."""
    with mock.patch.object(layers, "compiled", lambda weights: False):  # a CPU takes the way of a GPU
        engine = Engine(model, EngineConfig(**config), ends=[])
    engine._runner.uses_graphs = engine.config.cuda_graphs  # on a CPU the steps only run over the same buffers
    try:
        with mock.patch.object(decoder, "look", LOOKS[look]):
            yield engine
    finally:
        engine.abandon()
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device is done with it."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(engine: Engine, shape: Shape, rows: int, context: int, count: int, runs: int, goes: Goes) -> list[float]:
    """Seconds of each run of `count` steps of decoding for `rows` rows, of `context` tokens each on average.

    Every run decodes the same positions again: rows are set back to the ends of their prompts. All that a step of the
    engine does is in it. The first run, which records, is not counted. No seconds where the memory does not hold so
    many rows.
    """
    tokenizer, rng = engine.image_cache._model.tokenizer, random.Random(0)
    assert isinstance(tokenizer, Ids)
    shown = picture(shape, rng)
    requests = [
        Request(
            ids=[tokenizer.image_id, *tokenizer.words(rng, context - count // 2 - 1)],
            images=[shown],
            params=SamplingParams(max_new_tokens=count + 2),
        )
        for _ in range(rows)
    ]
    for request in requests:
        engine.submit(request)
    engine._decode = list  # type: ignore[method-assign, assignment]  # prompts first, so that all rows are equally long
    while engine._slots.decoding < rows and engine.slots == rows:
        engine.step()
    del engine._decode
    found = []
    for number in range(runs + 1):
        if engine.slots < rows or (number > 1 and not goes()):
            break
        for request in requests:
            del request.tokens[1:]
            request.computed = len(request.ids)
        seconds = timed(engine.decoder.device, lambda: [engine.step() for _ in range(count)])
        found.append(seconds)
    if engine.slots < rows:
        return []
    assert all(len(request.tokens) == 1 + count for request in requests)
    return found[1:]


def prompts(engine: Engine, rows: int, length: int, runs: int, goes: Goes) -> list[float]:
    """Seconds for `rows` prompts of `length` tokens without an image, each answered with one token."""
    tokenizer, rng = engine.image_cache._model.tokenizer, random.Random(0)
    assert isinstance(tokenizer, Ids)
    found: list[float] = []
    while len(found) < 2 or (len(found) <= runs and goes()):
        wanted = [
            Request(ids=tokenizer.words(rng, length), params=SamplingParams(max_new_tokens=1)) for _ in range(rows)
        ]
        found.append(timed(engine.decoder.device, lambda wanted=wanted: engine.generate(wanted)))  # type: ignore[misc]
    return found[1:]


def pixels_to_media(engine: Engine, model: FlamingoModel, at_once: int, runs: int, goes: Goes) -> list[float]:
    """Seconds from `at_once` images' pixels on the device to their keys and values in every layer."""
    size = model.vision_encoder.image_size
    of = engine.decoder
    shape = (at_once, 3, *(size if isinstance(size, tuple) else (size, size)))
    pixels = torch.randn(shape, device=of.device).to(of.dtype)

    @torch.inference_mode()
    def run() -> None:
        of.image_kv(model.latents(model.patch_tokens(pixels)[:, None, None])[:, 0])

    run()
    return _repeated(of.device, run, runs, goes)


def bytes_to_media(engine: Engine, shape: Shape, count: int, runs: int, goes: Goes) -> list[float]:
    """Seconds from `count` JPEGs in memory to their keys and values: decoding and resizing on the host included."""
    rng = random.Random(1)
    found: list[float] = []
    while len(found) < 2 or (len(found) <= runs and goes()):
        pictures = {str(number): picture(shape, rng) for number in range(count)}
        engine.image_cache = image_cache.ImageCache(engine.image_cache._model, engine.decoder)
        found.append(timed(engine.decoder.device, lambda pictures=pictures: engine.image_cache.get(pictures)))  # type: ignore[misc]
    return found[1:]


def whole(
    engine: Engine, shape: Shape, count: int, runs: int, goes: Goes, *, drawn: bool = False
) -> list[tuple[float, int]]:
    """Seconds and generated tokens of each run of `count` new requests of the mix; the first run is not counted.

    Args: drawn: as the reference inferencer draws, but for its beams; else greedily.
    """
    tokenizer = engine.image_cache._model.tokenizer
    assert isinstance(tokenizer, Ids)
    found: list[tuple[float, int]] = []
    while len(found) < 2 or (len(found) <= runs and goes()):
        wanted = mixed(shape, tokenizer, count, seed=len(found))
        if drawn:
            for number, one in enumerate(wanted):
                one.params = replace(
                    one.params, temperature=1.0, top_k=20, top_p=0.9, no_repeat_ngram_size=3, seed=number
                )
        seconds = timed(engine.decoder.device, lambda wanted=wanted: engine.generate(wanted))  # type: ignore[misc]
        assert all(one.error is None for one in wanted), "the benchmark's requests are all good"
        found.append((seconds, sum(len(one.tokens) for one in wanted)))
    return found[1:]


def reference(model: FlamingoModel, requests: Sequence[Request], goes: Goes) -> list[tuple[float, int]]:
    """Seconds and tokens of each request through open_flamingo and transformers' `generate`, one at a time."""
    device = model.lang_encoder.get_input_embeddings().weight.device
    dtype = model.lang_encoder.get_input_embeddings().weight.dtype
    tokenizer = model.tokenizer

    def run(request: Request) -> None:
        prepared = [model.preprocess(decoding.decode(data)) for data in request.images]
        pixels = torch.stack(prepared)[None, :, None].to(device, dtype)
        ids = torch.tensor([request.ids], device=device)
        new = request.params.max_new_tokens
        out = model.generate(
            pixels, ids, torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False, num_beams=1,
            eos_token_id=[tokenizer.eos_id], pad_token_id=tokenizer.pad_id, suppress_tokens=[tokenizer.image_id],
        )  # fmt: skip
        assert out.shape[1] == len(request.ids) + new

    found: list[tuple[float, int]] = []
    for number, request in enumerate([requests[0], *requests]):  # the first twice: the first calls take longer
        if number > 2 and not goes():
            break
        found.append((timed(device, lambda request=request: run(request)), request.params.max_new_tokens))  # type: ignore[misc]
    return found[1:]


def _repeated(device: torch.device, work: Callable[[], object], runs: int, goes: Goes) -> list[float]:
    found = [timed(device, work)]
    while len(found) < runs and goes():
        found.append(timed(device, work))
    return found
