"""The engine without HTTP, to measure the overhead of the service.

    python -m benchmarks.serving.bare_engine --profile profiles/tiny.yaml --bodies BODIES --engines 1

The clients' requests, already parsed, go to an `EngineHost`, from one task per client, as in an engine replica. Each
line on stdin describes a run as JSON: {"clients", "seconds", "first", "out"}. The reply is a line that begins with
`RESULT`, and OUT gets what `benchmarks.serving.load_generator` writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.serving.chat_requests import understood
from benchmarks.serving.load_generator import Record, SendRequest, closed_loop
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from serving.backends.base import GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.config import ServiceConfig, from_profile
from serving.errors import ApiError


def host_of(config: ServiceConfig, engines: int) -> EngineHost:
    """Clever Flamingo as the service runs it, with so many engines in this process."""
    chat = config.serving.chat
    chat = replace(chat, engine=replace(chat.engine, copies=engines))
    serving = config.serving
    return EngineHost(serving.chat_name, chat, chat=True, waiting=serving.waiting, flush_seconds=serving.flush_seconds)


def request_sender(host: EngineHost, ngram: int, bodies: Sequence[bytes], began: float) -> SendRequest:
    """Return a `SendRequest` that calls the host. Args: ngram: `no_repeat_ngram_size`."""

    async def ask(record: Record) -> None:
        body = json.loads(bodies[record.number % len(bodies)])
        turns, images = understood(body["messages"])
        wanted = GenerationRequest(
            model=host.name,
            exchanges=turns,
            images=images,
            params=SamplingParams(max_new_tokens=body.get("max_tokens", 0), no_repeat_ngram_size=ngram),
        )
        try:
            async with aclosing(host.stream(wanted)) as chunks:
                async for chunk in chunks:
                    if chunk.text:
                        record.first = record.first or time.perf_counter() - began
                        record.pieces += 1
                        record.text += chunk.text
                    record.tokens += len(chunk.tokens)
            record.status = 200
        except ApiError as error:
            record.status, record.error, record.code = error.status, "http", str(error.code)
        record.end = time.perf_counter() - began

    return ask


async def run(host: EngineHost, ngram: int, bodies: Sequence[bytes], wanted: dict[str, float]) -> dict[str, object]:
    """Return the records, the window and the process's CPU seconds of one run."""
    began, cpu = time.perf_counter(), time.process_time()
    records, window = await closed_loop(
        request_sender(host, ngram, bodies, began),
        lambda: time.perf_counter() - began,
        clients=int(wanted["clients"]),
        seconds=wanted["seconds"],
        first=int(wanted["first"]),
        drain=30.0,
    )
    return {"records": [asdict(one) for one in records], "window": window, "cpu": time.process_time() - cpu}


def main() -> None:
    """Load the model, then do the runs on stdin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--override", action="append", default=[], help="NAME=VALUE of the profile")
    options = parser.parse_args()
    config = from_profile(options.profile, dict(one.split("=", 1) for one in options.override))
    bodies = options.bodies.read_bytes().splitlines()

    async def serve() -> None:
        host = host_of(config, options.engines)
        ngram = config.serving.chat.generation.no_repeat_ngram_size
        await run(host, ngram, bodies, {"clients": 8, "seconds": 1.0, "first": len(bodies) - 1000})
        print("RESULT {}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            wanted = json.loads(line)
            Path(wanted["out"]).write_text(json.dumps(await run(host, ngram, bodies, wanted)))
            print("RESULT {}", flush=True)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
