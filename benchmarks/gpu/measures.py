"""The measurements of `benchmarks/gpu/engine.py`: each function returns the seconds of its runs."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from benchmarks.gpu.attention import ATTENTIONS
from benchmarks.gpu.model import Ids, Shape, mixed, picture
from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine import image_cache
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model import decoder, layers
from polite_flamingo.images import decoding

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

HasTime = Callable[[], bool]
"""Whether the budget allows another run."""


@contextmanager
def engine_of(model: FlamingoModel, attention: str, **config: Any) -> Iterator[Engine]:
    """Yield an engine and release its memory afterwards; no token ends a text. Args: attention: of `ATTENTIONS`."""
    with mock.patch.object(layers, "compiled", lambda weights: False):  # so that a CPU runs the GPU's code
        engine = Engine(model, EngineConfig(**config), stop_token_ids=[])
    engine._runner.uses_graphs = (
        engine.config.cuda_graphs
    )  # on a CPU nothing is recorded, but the same buffers are used
    try:
        with mock.patch.object(decoder, "single_query_attention", ATTENTIONS[attention]):
            yield engine
    finally:
        engine.cancel_all()
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds until the device has finished the work."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(
    engine: Engine, shape: Shape, rows: int, context: int, count: int, runs: int, has_time: HasTime
) -> list[float]:
    """Return the seconds of each run of `count` decode steps for `rows` rows of `context` tokens on average.

    Every run decodes the same positions, because rows are reset to the ends of their prompts. Whole engine steps are
    measured. The first run, which records CUDA graphs, does not count. Returns an empty list if the rows do not fit in
    memory.
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
    engine._decode = list  # type: ignore[method-assign, assignment]  # only prompts for now, so that all rows get the same length
    while engine._slots.decoding < rows and engine.slots == rows:
        engine.step()
    del engine._decode
    found = []
    for number in range(runs + 1):
        if engine.slots < rows or (number > 1 and not has_time()):
            break
        for request in requests:
            del request.tokens[1:]
            request.num_computed_tokens = len(request.ids)
        seconds = timed(engine.decoder.device, lambda: [engine.step() for _ in range(count)])
        found.append(seconds)
    if engine.slots < rows:
        return []
    assert all(len(request.tokens) == 1 + count for request in requests)
    return found[1:]


def prompts(engine: Engine, rows: int, length: int, runs: int, has_time: HasTime) -> list[float]:
    """Return the seconds for `rows` prompts of `length` tokens without images, each answered with one token."""
    tokenizer, rng = engine.image_cache._model.tokenizer, random.Random(0)
    assert isinstance(tokenizer, Ids)
    found: list[float] = []
    while len(found) < 2 or (len(found) <= runs and has_time()):
        wanted = [
            Request(ids=tokenizer.words(rng, length), params=SamplingParams(max_new_tokens=1)) for _ in range(rows)
        ]
        found.append(timed(engine.decoder.device, lambda wanted=wanted: engine.generate(wanted)))  # type: ignore[misc]
    return found[1:]


def pixels_to_kv(engine: Engine, model: FlamingoModel, at_once: int, runs: int, has_time: HasTime) -> list[float]:
    """Return the seconds from the pixels of `at_once` images on the device to their keys and values."""
    size = model.vision_encoder.image_size
    of = engine.decoder
    shape = (at_once, 3, *(size if isinstance(size, tuple) else (size, size)))
    pixels = torch.randn(shape, device=of.device).to(of.dtype)

    @torch.inference_mode()
    def run() -> None:
        of.image_kv(model.latents(model.patch_tokens(pixels)[:, None, None])[:, 0])

    run()
    return _repeated(of.device, run, runs, has_time)


def jpegs_to_kv(engine: Engine, shape: Shape, count: int, runs: int, has_time: HasTime) -> list[float]:
    """Return the seconds from `count` JPEGs in memory to keys and values, including decoding and resizing."""
    rng = random.Random(1)
    found: list[float] = []
    while len(found) < 2 or (len(found) <= runs and has_time()):
        pictures = {str(number): picture(shape, rng) for number in range(count)}
        engine.image_cache = image_cache.ImageCache(engine.image_cache._model, engine.decoder)
        found.append(timed(engine.decoder.device, lambda pictures=pictures: engine.image_cache.get(pictures)))  # type: ignore[misc]
    return found[1:]


def whole(
    engine: Engine, shape: Shape, count: int, runs: int, has_time: HasTime, *, sampled: bool = False
) -> list[tuple[float, int]]:
    """Return the seconds and generated tokens of each run of `count` new requests of the mix, without the first run.

    Args: sampled: sample like the reference inferencer (without beams), instead of greedily.
    """
    tokenizer = engine.image_cache._model.tokenizer
    assert isinstance(tokenizer, Ids)
    found: list[tuple[float, int]] = []
    while len(found) < 2 or (len(found) <= runs and has_time()):
        wanted = mixed(shape, tokenizer, count, seed=len(found))
        if sampled:
            for number, one in enumerate(wanted):
                one.params = replace(
                    one.params, temperature=1.0, top_k=20, top_p=0.9, no_repeat_ngram_size=3, seed=number
                )
        seconds = timed(engine.decoder.device, lambda wanted=wanted: engine.generate(wanted))  # type: ignore[misc]
        assert all(one.error is None for one in wanted), "no request of the benchmark may fail"
        found.append((seconds, sum(len(one.tokens) for one in wanted)))
    return found[1:]


def reference(model: FlamingoModel, requests: Sequence[Request], has_time: HasTime) -> list[tuple[float, int]]:
    """Return the seconds and tokens of each request through transformers' `generate`, one at a time."""
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
    for number, request in enumerate([requests[0], *requests]):  # the first one twice, since first calls take longer
        if number > 2 and not has_time():
            break
        found.append((timed(device, lambda request=request: run(request)), request.params.max_new_tokens))  # type: ignore[misc]
    return found[1:]


def _repeated(device: torch.device, work: Callable[[], object], runs: int, has_time: HasTime) -> list[float]:
    found = [timed(device, work)]
    while len(found) < runs and has_time():
        found.append(timed(device, work))
    return found
