"""The cost of a call of /v1/rewrite, beside its engine and its filters alone.

    python -m benchmarks.serving.rewrite_calls [--profile profiles/tiny.yaml] [--runs 7]

One process has the rewriter, the filters and the HTTP side (uvicorn, no Ray). The same annotations, one and 32 of them,
are processed in three ways, in turns:

    engine   the prompts go straight to the engine, all at once
    filters  the texts go straight to the filters, in one call
    call     POST /v1/rewrite with `items`, the images as data URLs, by a client in another thread

Each run has new images and questions (Shapes, seeded), because the engine caches images. Times are medians of
wall-clock time and of the process's CPU time, which is meaningful on a shared machine, too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import uvicorn

from benchmarks.pipeline.scorers import shapes_samples
from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.sample import Sample
from serving.backends.base import Backend
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.config import ServiceConfig, from_profile
from serving.rewrite.routes import generation_request
from serving.server.app import create_app


def content(sample: Sample) -> dict[str, Any]:
    """A sample as a client sends it."""
    urls = [f"data:image/png;base64,{base64.b64encode(image.data).decode()}" for image in sample.images]
    return {"instruction": sample.instruction, "raw": sample.response, "task": sample.task, "images": urls}


async def text_of(backend: Backend, sample: Sample, config: ServiceConfig) -> str:
    """The text from the engine."""
    text = ""
    async with aclosing(backend.stream(generation_request(sample, config))) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            text += chunk.text
    return text


def post(url: str, samples: Sequence[Sample]) -> list[str]:
    """The texts from the server."""
    body = json.dumps({"items": [content(sample) for sample in samples]}).encode()
    request = urllib.request.Request(f"{url}/v1/rewrite", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return [item["result"]["rewritten"] for item in json.load(response)["data"]]


async def measure(config: ServiceConfig, runs: int) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """(items, way) -> (wall-clock, CPU) seconds of each run, without a warm-up run."""
    name = config.serving.rewriter_name
    host = EngineHost(name, config.rewriter, chat=False, waiting=config.serving.limits.rewrites)  # no router waits here
    backend = LocalBackend([host], Scorer(config.scoring))
    server = uvicorn.Server(uvicorn.Config(create_app(config, backend), port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    seed = 0
    for number in range(runs + 1):
        for count in (1, 32):
            seed += 2  # the engine and the call get pictures of their own: what an engine has seen costs less
            first, second = shapes_samples(count, seed), shapes_samples(count, seed + 1)
            texts: list[str] = []

            async def engine(samples: list[Sample] = first, texts: list[str] = texts) -> None:
                texts += await asyncio.gather(*(text_of(backend, sample, config) for sample in samples))

            async def filters(samples: list[Sample] = first, texts: list[str] = texts) -> None:
                pairs = zip(samples, texts, strict=True)
                await backend.score([replace(sample, rewritten=text.strip()) for sample, text in pairs])

            async def call(samples: list[Sample] = second) -> None:
                await asyncio.to_thread(post, url, samples)

            for way in (engine, filters, call):
                took = await timed(way)
                if number:
                    found.setdefault((count, way.__name__), []).append(took)
    server.should_exit = True
    await serving
    await backend.aclose()
    return found


async def timed(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--profile", default="profiles/tiny.yaml")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    found = asyncio.run(measure(from_profile(options.profile, {"serving.access.log": False}), options.runs))
    print(f"{'items':>5}  {'way':<8} {'wall ms':>9} {'CPU ms':>9}")
    for (count, way), seconds in found.items():
        wall, cpu = (1000 * statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"{count:>5}  {way:<8} {wall:>9.1f} {cpu:>9.1f}")
    for count in (1, 32):
        walls = {way: statistics.median(one[0] for one in found[count, way]) for way in ("engine", "filters", "call")}
        cpus = {way: statistics.median(one[1] for one in found[count, way]) for way in ("engine", "filters", "call")}
        over = [one["call"] / (one["engine"] + one["filters"]) - 1 for one in (walls, cpus)]
        print(f"{count} items: the call over engine and filters {over[0]:+.1%} wall-clock, {over[1]:+.1%} CPU")


if __name__ == "__main__":
    main()
