"""What a build over an endpoint makes of its server, against a bare asyncio loop; and whether its memory stays flat.

    python -m benchmarks.pipeline.endpoint                       # throughput at 64 requests at once
    python -m benchmarks.pipeline.endpoint --memory-rows 100000  # the actor's memory over so many rows

The server is a process of its own and has no model: it answers after a latency that depends on the request alone, so
every way meets the same one. It measures both: requests per second between its first request and its last answer, and
how many it had at once. The ways:

    loop      aiohttp, a worker per request at once, the bodies ready made: as good as a client gets
    rewriter  `EndpointRewriter` on two shards at once, with the answers kept on disk
    build     the job on Ray: reading, journal, answers kept, commits; scores come from a stand-in
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.pipeline.stand_ins import StandIn, StandInScoringActor
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.config import EndpointConfig, RewriterSection
from polite_flamingo.rewriters.endpoint import EndpointRewriter, request_body
from polite_flamingo.sample import Sample, Turn, make_key
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.usage import Usage
from ray_jobs.build_pf1m import BuildConfig, rewrite_and_score
from ray_jobs.cluster import set_environment

MODEL = "latency"
MB = 1 << 20


class LatencyServer:
    """Answers any chat request after its latency; GET /figures returns what it saw and starts afresh."""

    def __init__(self, latency: float):
        self.latency = latency
        self.forget()

    def forget(self) -> None:
        """Start afresh."""
        self.first, self.last, self.requests, self.open, self.busy = 0.0, 0.0, 0, 0, 0.0
        self.changed = time.monotonic()

    def change(self, by: int) -> None:
        """Count a request that comes or goes."""
        now = time.monotonic()
        self.busy += self.open * (now - self.changed)
        self.changed, self.open = now, self.open + by

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = next((int(x.split(":")[1]) for x in head.split("\r\n") if x.startswith("content-length")), 0)
                body = await reader.readexactly(length)
                if head.startswith("get"):
                    span = max(1e-9, self.last - self.first)
                    answer = {"rate": (self.requests - 1) / span, "at_once": self.busy / span, "rows": self.requests}
                    self.forget()
                else:
                    answer = await self.answer(body)
                data = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, body: bytes) -> dict[str, Any]:
        """Wait as a model would: half to one and a half of the latency, by the request's own seed."""
        self.first = self.first or time.monotonic()
        self.change(+1)
        asked = json.loads(body)
        await asyncio.sleep(self.latency * (0.5 + asked["seed"] % 1000 / 1000))
        self.change(-1)
        self.requests, self.last = self.requests + 1, time.monotonic()
        message = {"role": "assistant", "content": "Certainly! There is a red circle in the middle of the picture."}
        return {
            "model": MODEL, "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 300, "completion_tokens": 14},
        }  # fmt: skip


async def serve(latency: float) -> None:
    """Run the server; print its port."""
    server = await asyncio.start_server(LatencyServer(latency).serve, "127.0.0.1", 0, limit=64 * MB, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def figures(url: str) -> dict[str, float]:
    """Return what the server saw since the last call."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/figures") as response:
        found: dict[str, float] = json.load(response)
        return found


def rows_of(shard: int, rows: int) -> list[Sample]:
    """Return the rows of a shard."""
    return [
        Sample(
            key=make_key("made", f"s{shard}", number), dataset="made", task="text",
            turns=(Turn(instruction="What is in the middle?", response=f"Answer: red circle {shard} {number}"),),
        )
        for number in range(rows)
    ]  # fmt: skip


async def loop(config: EndpointConfig, samples: Sequence[Sample]) -> None:
    """Ask for every sample with as many workers as requests may be open."""
    import aiohttp

    opening = chat_prompt.opening(config)
    asked = [chat_prompt.user(config, one.instruction, one.response, one.task, ()) for one in samples]
    bodies = [
        {"model": MODEL, **request_body(config, [*opening, message], one.key)}
        for message, one in zip(asked, samples, strict=True)
    ]
    ready = iter([json.dumps(body).encode() for body in bodies])
    connector = aiohttp.TCPConnector(limit=config.concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            for body in ready:
                async with session.post(f"{config.urls[0]}/chat/completions", data=body) as response:
                    await response.json(content_type=None)

        await asyncio.gather(*(work() for _ in range(config.concurrency)))


def rewriter(config: EndpointConfig, shards: Sequence[Sequence[Sample]], folder: Path) -> None:
    """Rewrite shards, two at once."""
    model = EndpointRewriter(config)

    def one(number: int) -> None:
        with AnswerStore(location(folder), f"s{number}") as answers:
            model.rewrite(shards[number], Usage(), answers)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, range(len(shards))))


def build(config: EndpointConfig, shards: Sequence[Sequence[Sample]], root: Path, rows_per_call: int) -> list[float]:
    """Run the job; return the memory of the rewriting actor in MB, once a second."""
    import ray

    from polite_flamingo.storage.discovery import shard_names
    from polite_flamingo.storage.ledger import OutputLayout
    from ray_jobs.resumable_job import ShardJob

    for number, rows in enumerate(shards):
        write_shard(root / "in" / f"s{number:05}.tar", rows)
    pools = PoolsConfig(
        rewriting=PoolConfig(cpus=0.25, rows_per_call=rows_per_call), scoring=PoolConfig(cpus=0.25, rows_per_call=256)
    )
    job_config = BuildConfig(
        input=str(root / "in"), out=str(root / "out"), rewriter=RewriterSection(kind="endpoint", endpoint=config),
        scoring=StandIn(), pools=pools,  # type: ignore[arg-type]
    )  # fmt: skip
    layout = OutputLayout(root=root / "out")
    job = ShardJob(layout=layout, identity="endpoint", models={}, config="")
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    set_environment({})
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=400 * MB,
        logging_level=logging.ERROR, log_to_driver=False,
    )  # fmt: skip
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "MapBatches(RewriterActor)" in " ".join(process.cmdline()):
                        memory.append(process.memory_info().rss / MB)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        rewrite_and_score(job, shard_names(str(root / "in")), job_config, scoring_actor=StandInScoringActor)
    finally:
        over.set()
        watcher.join()
        ray.shutdown()
    assert len(layout.finished()) == len(shards)
    return memory


def main() -> None:
    """Print a table of the ways, or of the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=1.0, help="mean seconds per answer")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rows-per-shard", type=int, default=512)
    parser.add_argument("--rows-per-call", type=int, default=256)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="the ways take turns")
    parser.add_argument("--memory-rows", type=int, default=0)
    parser.add_argument("--serve", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    latency = 0.05 if options.memory_rows else options.latency
    command = [sys.executable, "-m", "benchmarks.pipeline.endpoint", "--serve", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            config = EndpointConfig(urls=(url,), model=MODEL, concurrency=options.concurrency)
            if options.memory_rows:
                print_memory(config, options, url)
            else:
                print_rates(config, options, url)
        finally:
            server.kill()


def print_rates(config: EndpointConfig, options: argparse.Namespace, url: str) -> None:
    """Run the ways in turns; print requests per second, and the mean number of open requests."""
    shards = [rows_of(shard, options.rows_per_shard) for shard in range(options.shards)]
    samples = [one for rows in shards for one in rows]
    print(f"{len(samples):,} rows, {options.concurrency} at once, {options.latency:g} s each:")
    for _ in range(options.rounds):
        asyncio.run(loop(config, samples))
        bare = figures(url)
        with tempfile.TemporaryDirectory() as folder:
            rewriter(config, shards, Path(folder))
        alone = figures(url)
        with tempfile.TemporaryDirectory() as folder:
            build(config, shards, Path(folder), options.rows_per_call)
        whole = figures(url)
        for name, found in (("loop", bare), ("rewriter", alone), ("build", whole)):
            rate, share = found["rate"], found["rate"] / bare["rate"]
            print(
                f"{name:9} {rate:7.1f} requests/s  {share:6.3f} of the loop  {found['at_once']:5.1f} at once",
                flush=True,
            )


def print_memory(config: EndpointConfig, options: argparse.Namespace, url: str) -> None:
    """Build many rows; print the actor's memory at each tenth of the time."""
    count = options.memory_rows // options.rows_per_shard
    shards = [rows_of(shard, options.rows_per_shard) for shard in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        memory = build(config, shards, Path(folder), options.rows_per_call)
    print(f"{figures(url)['rows']:,.0f} rows; MB of the rewriting actor at each tenth of the time:")
    print(" ".join(f"{memory[len(memory) * tenth // 10 - 1]:.0f}" for tenth in range(1, 11)))


if __name__ == "__main__":
    main()
