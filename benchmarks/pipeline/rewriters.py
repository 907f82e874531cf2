"""The contestants of `benchmarks.pipeline.rewriting`, each in its own process, which rewrites on request.

    python -m benchmarks.pipeline.rewriters --contestant NAME --profile FILE --shards FOLDER --out FOLDER --threads N

Each line on stdin asks for a run, as JSON: {"name": a label, "every": take every n-th picture, "dtype": …}. The answer
is a line that starts with `RESULT`: seconds, samples, generated tokens. The texts go to OUT/NAME.json. A model is
loaded and warm before its first run; image and prefix caches are empty at the start of each.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from PIL import Image as Pillow
from torch import Tensor

from benchmarks.pipeline.on_ray import on_ray
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.engine.beam_search import BeamSearch, arguments
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.engine_pool import EnginePool
from polite_flamingo.flamingo.engine.image_cache import ImageCache
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import KVCache
from polite_flamingo.images import decoding
from polite_flamingo.prompts import rewriting_prompt
from polite_flamingo.rewriters.flamingo import Rewriter, create_engine
from polite_flamingo.sample import Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.shards import read_shard
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

Run = Callable[[list[Sample], dict[str, Any]], tuple[float, list[str], int]]
"""From samples and the run's options to seconds, texts, generated tokens (including end tokens; 0 if unknown)."""


def main() -> None:
    """Load the model, then run what stdin asks for until it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestant", choices=("reference", "batched", "engine", "ray"), required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    command = ["--profile", options.profile, "--input", str(options.shards), "--out", str(options.out / "build")]
    build = console.parse("rewriting", "", BuildConfig, command)
    run: Run
    if options.contestant == "ray":
        run = partial(on_ray, build, options.out)
    else:
        config = replace(build.rewriter, threads=options.threads)
        assert config.generation.num_beams == 1, "the benchmark compares decoding without beams"
        make = {"reference": reference_loop, "batched": batched_generate, "engine": with_engine}
        run = in_a_dtype(config, make[options.contestant])
    samples = read_all(options.shards)
    if options.contestant != "ray":
        run(samples[:8], {"batch": 8})
    print("RESULT {}", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        chosen = each_nth_picture(samples, wanted.get("every", 1))
        seconds, texts, tokens = run(chosen, wanted)
        written = {sample.key: text for sample, text in zip(chosen, texts, strict=True)}
        (options.out / f"{wanted['name']}.json").write_text(json.dumps(written))
        print("RESULT " + json.dumps({"seconds": seconds, "samples": len(chosen), "tokens": tokens}), flush=True)


def read_all(shards: Path) -> list[Sample]:
    """Read all samples of a folder of shards, in order."""
    rows = [row for path in shard_names(str(shards)).values() for row in read_shard(path)]
    samples = [row for row in rows if isinstance(row, Sample)]
    assert len(samples) == len(rows), "the benchmark's own shards have no bad rows"
    return samples


def each_nth_picture(samples: list[Sample], every: int) -> list[Sample]:
    """Select all samples of every n-th picture, so that the number of questions per picture stays the same."""
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: tuple(i.data for i in sample.images))]
    return [sample for group in groups[::every] for sample in group]


def in_a_dtype(config: RewriterConfig, make: Callable[[Rewriter], Run]) -> Run:
    """Run with weights of `options["dtype"]`, or else the profile's; each model is loaded on first use."""
    runs: dict[str, Run] = {}

    def run(samples: list[Sample], options: dict[str, Any]) -> tuple[float, list[str], int]:
        dtype = options.get("dtype", config.dtype)
        if dtype not in runs:
            runs[dtype] = make(Rewriter(replace(config, dtype=dtype)))
            runs[dtype](samples[:: max(1, len(samples) // 8)], {"batch": 8})  # torch's first calls take longer
        return runs[dtype](samples, options)

    return run


# (a) and (b): open_flamingo and transformers


def reference_loop(rewriter: Rewriter) -> Run:
    """Do what the reference inferencer does: one sample at a time, with its image and prompt, through `generate`."""
    model, extra = rewriter.model, generate_arguments(rewriter)
    dtype = model.lang_encoder.get_input_embeddings().weight.dtype

    def run(samples: list[Sample], options: dict[str, Any]) -> tuple[float, list[str], int]:
        started, texts, tokens = time.perf_counter(), [], 0
        for sample in samples:
            vision_x = pixels_of(model, sample)[None, :, None].to(dtype)
            prompt = model.tokenizer.encode(rewriting_prompt(sample.instruction, sample.response))
            lang_x = torch.tensor([prompt])
            out = model.generate(vision_x, lang_x, torch.ones_like(lang_x), **extra)
            ids = until_end(out[0, len(prompt) :].tolist(), extra["eos_token_id"])
            texts.append(model.tokenizer.decode(ids).strip())
            tokens += len(ids) + 1
        return time.perf_counter() - started, texts, tokens

    return run


def batched_generate(rewriter: Rewriter) -> Run:
    """Do the same in batches, sorted by number of images and length, left-padded, with images encoded per batch."""
    model, extra = rewriter.model, generate_arguments(rewriter)
    tokenizer = model.tokenizer
    dtype = model.lang_encoder.get_input_embeddings().weight.dtype

    def run(samples: list[Sample], options: dict[str, Any]) -> tuple[float, list[str], int]:
        started, tokens = time.perf_counter(), 0
        texts: dict[int, str] = {}
        prompts = [tokenizer.encode(rewriting_prompt(sample.instruction, sample.response)) for sample in samples]
        order = sorted(range(len(samples)), key=lambda number: (len(samples[number].images), len(prompts[number])))
        for start in range(0, len(order), options["batch"]):
            batch = order[start : start + options["batch"]]
            width = max(len(prompts[number]) for number in batch)
            lang_x = torch.full((len(batch), width), tokenizer.pad_id)
            mask = torch.zeros_like(lang_x)
            pixels = [pixels_of(model, samples[number]) for number in batch]
            vision_x = torch.zeros(len(batch), max(map(len, pixels)), 1, *pixels[0].shape[1:], dtype=dtype)
            for row, number in enumerate(batch):
                lang_x[row, width - len(prompts[number]) :] = torch.tensor(prompts[number])
                mask[row, width - len(prompts[number]) :] = 1
                vision_x[row, : len(pixels[row]), 0] = pixels[row]
            out = model.generate(vision_x, lang_x, mask, **extra)
            for number, row in zip(batch, out[:, width:].tolist(), strict=True):
                ids = until_end(row, extra["eos_token_id"])
                texts[number] = tokenizer.decode(ids).strip()
                tokens += len(ids) + 1
        return time.perf_counter() - started, [texts[number] for number in range(len(samples))], tokens

    return run


def generate_arguments(rewriter: Rewriter) -> dict[str, Any]:
    """Return the profile's settings for transformers' `generate`."""
    ends = sorted(engines_of(rewriter.engine)[0].stop_token_ids)
    return arguments(rewriter.config.generation) | {
        "eos_token_id": ends,
        "pad_token_id": rewriter.model.tokenizer.pad_id,
    }


def pixels_of(model: FlamingoModel, sample: Sample) -> Tensor:
    """Return a sample's images as pixels (T, 3, H, W); the black image if it has none."""
    pictures = [Pillow.open(io.BytesIO(image.data)).convert("RGB") for image in sample.images] or [decoding.black()]
    return torch.stack([model.preprocess(picture) for picture in pictures])


def until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Cut at the end token."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


# (c): one engine per core, with all optimisations or one switched off

Decodes = Engine | EnginePool | BeamSearch


def with_engine(rewriter: Rewriter) -> Run:
    """Run `Rewriter.texts` with fresh engines; `options["without"]` names the optimisation to switch off."""
    threads = torch.get_num_threads()

    def run(samples: list[Sample], options: dict[str, Any]) -> tuple[float, list[str], int]:
        torch.set_num_threads(threads)  # a pool of engines has set MKL's to one
        started, cpu = time.perf_counter(), time.process_time()
        rewriter.engine = SWITCHES[options.get("without", "")](rewriter.model, with_copies(rewriter.config, threads))
        texts = rewriter.texts(samples)
        seconds = time.perf_counter() - started
        bad = [text for text in texts if not isinstance(text, str)]
        assert not bad, f"no sample of the benchmark may fail, but: {bad[0]}"
        if "name" in options:
            cpu = time.process_time() - cpu
            print(f"{options['name']}: {seconds:.2f} s, {cpu:.2f} s of CPU", file=sys.stderr)
        generated = sum(engine.metrics.generated for engine in engines_of(rewriter.engine))
        return seconds, [str(text) for text in texts], generated

    return run


def with_copies(config: RewriterConfig, copies: int) -> RewriterConfig:
    """Change the number of engines."""
    return replace(config, engine=replace(config.engine, copies=copies))


def engines_of(decoder: Decodes) -> list[Engine]:
    """Return all engines."""
    assert not isinstance(decoder, BeamSearch)
    return decoder.engines if isinstance(decoder, EnginePool) else [decoder]


def one_engine_of_all_threads(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Use one engine, whose products torch splits among the threads."""
    return create_engine(model, with_copies(config, 1))


def waiting_for_the_batch(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Keep freed slots empty until the last request of the batch is done."""
    decoder = create_engine(model, config)
    for engine in engines_of(decoder):
        admit = engine._admit
        engine._admit = (  # type: ignore[method-assign]
            lambda touched, engine=engine, admit=admit: None if engine._slots.rows else admit(touched)  # type: ignore[misc]
        )
    return decoder


def without_image_cache(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Encode an image for each request, unless requests admitted together share it."""
    decoder = create_engine(model, config)
    for engine in engines_of(decoder):
        engine.image_cache = ImageCache(model, engine.decoder, max_bytes=0)
    return decoder


def without_prefix_cache(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Run every prompt from its first token."""
    return create_engine(model, replace(config, engine=replace(config.engine, prefixes=0)))


def without_kernels(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Use torch's operations for norms, rotary positions, the KV cache and attention, as on a GPU."""
    with mock.patch("polite_flamingo.flamingo.model.layers.compiled", lambda x: False):
        return create_engine(model, config)


def projecting_images_in_every_call(model: FlamingoModel, config: RewriterConfig) -> Decodes:
    """Project latents to keys and values in every call, as open_flamingo does; the result is not used."""
    made = create_engine(model, config)
    for engine in engines_of(made):
        project(engine.decoder, 4 * config.engine.slots, model.latents_shape)
    return made


def project(decoder: Decoder, rows: int, shape: tuple[int, int]) -> None:
    """Make each call project as many latents as it has images."""
    step, prefill = decoder.step, decoder.prefill
    latents_BND = torch.randn(rows, *shape, dtype=decoder.dtype, device=decoder.device)

    def projecting_step(ids: Tensor, positions: Tensor, cache: KVCache, limit: int, images: Any, *more: Any) -> Tensor:
        if images is not None:
            decoder._to_kv(latents_BND[: len(ids)])
        return step(ids, positions, cache, limit, images, *more)

    def projecting_prefill(*given: Any) -> Tensor:
        decoder._to_kv(latents_BND[: sum(map(len, given[-1]))])
        return prefill(*given)

    decoder.step, decoder.prefill = projecting_step, projecting_prefill  # type: ignore[method-assign]


SWITCHES: dict[str, Callable[[FlamingoModel, RewriterConfig], Decodes]] = {
    "": create_engine,
    "bfloat16 rather than float32": create_engine,
    "one engine per core": one_engine_of_all_threads,
    "compiled kernels": without_kernels,
    "freed slots refilled before the rest": waiting_for_the_batch,
    "prefix cache": without_prefix_cache,
    "image cache": without_image_cache,
    "image keys and values computed once": projecting_images_in_every_call,
}
"""What can be switched off; the number format is switched by the run's `dtype`."""


if __name__ == "__main__":
    main()
