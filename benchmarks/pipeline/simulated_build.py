"""One build with stand-ins instead of models on a private Ray, in its own process; prints figures for `scale.py`.

It runs `build_pf1m.rewrite_and_score` itself: shards are read, checked, journalled and committed with fsync as always,
but the models sleep (`stand_ins.py`). Ray gets as many logical CPUs as the pools need, whatever the machine has.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from PIL import Image as Pillow

from benchmarks.pipeline.resource_monitor import ResourceMonitor
from benchmarks.pipeline.stand_ins import StandIn, StandInRewriterActor, StandInScoringActor
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import write_shard
from ray_jobs.build_pf1m import BuildConfig, rewrite_and_score
from ray_jobs.cluster import set_environment
from ray_jobs.resumable_job import ShardJob

SCORING_SHARE = 1 / 40
"""Scoring a row takes this share of the time of rewriting it; one scoring actor serves sixteen rewriting ones."""

MB = 1 << 20


def simulate(options: argparse.Namespace, actors: int, shards: int) -> dict[str, float]:
    """Run one simulated build in a new process; return its figures.

    Args:
        options: folder, rows_per_shard, seconds_per_row, shards_a_run.
        actors: number of rewriting actors.
        shards: number of shards.
    """
    command = [sys.executable, "-m", "benchmarks.pipeline.simulated_build"]
    command += ["--actors", str(actors), "--shards", str(shards)]
    command += ["--rows-per-shard", str(options.rows_per_shard), "--seconds-per-row", str(options.seconds_per_row)]
    command += ["--shards-a-run", str(options.shards_a_run)]
    command += ["--folder", str(options.folder)] if options.folder else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("FIGURE ")]  # Ray prints there too
    return {name: float(value) for _, name, value in lines}


def main() -> None:
    """Build some shards with stand-ins; print figures, one per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    for name in ("--actors", "--shards", "--rows-per-shard", "--shards-a-run"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--seconds-per-row", type=float, required=True)
    options = parser.parse_args()
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    os.environ.update(RAY_worker_niceness="0")
    set_environment({})
    with tempfile.TemporaryDirectory(prefix="scale_", dir=options.folder) as made:
        for name, value in build(options, Path(made)).items():
            print("FIGURE", name, value)


def build(options: argparse.Namespace, root: Path) -> dict[str, float]:
    """Write the input and build it under `root`; return the figures."""
    rewriting, scoring = options.actors, max(1, options.actors // 16)
    pools = PoolsConfig(
        rewriting=PoolConfig(min_actors=rewriting, max_actors=rewriting, cpus=0.05),
        scoring=PoolConfig(min_actors=scoring, max_actors=scoring, cpus=0.05),
    )
    shards = write_inputs(root / "in", options.shards, options.rows_per_shard)
    (root / "log").mkdir()
    layout = OutputLayout(root=root / "out")
    latency = options.seconds_per_row
    config = BuildConfig(
        input=str(root / "in"),
        out=str(layout.root),
        rewriter=StandIn(seconds_per_row=latency, log=str(root / "log")),  # type: ignore[arg-type]
        scoring=StandIn(seconds_per_row=latency * SCORING_SHARE),  # type: ignore[arg-type]
        pools=pools,
    )
    import ray
    import ray.data  # before the monitor starts: its memory does not depend on the shards

    from ray_jobs import pipeline

    ray.init(
        address="local",
        num_cpus=int(pools.needs().cpus + 1.999),  # four tasks that read or write; workers start so many at a time
        include_dashboard=False,
        object_store_memory=400 * MB,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    monitor, started = ResourceMonitor(), time.monotonic()
    with mock.patch.object(pipeline, "SHARDS_PER_RUN", options.shards_a_run):
        rewrite_and_score(simulated_job(layout), shards, config, None, StandInRewriterActor, StandInScoringActor)
    seconds = time.monotonic() - started
    figures = {**monitor.stop(), **from_logs(root / "log", layout), "seconds": seconds, "shards": len(shards)}
    assert len(layout.finished()) == len(shards)
    ray.shutdown()
    return figures


def simulated_job(layout: OutputLayout) -> ShardJob:
    """Return a job without models."""
    return ShardJob(layout=layout, identity="simulation", models={}, config="")


def write_inputs(folder: Path, count: int, rows: int) -> dict[str, Location]:
    """Write shards whose rows have a small image each; all are links to one file, since shards are independent."""
    rng = random.Random(0)
    samples = []
    for number in range(rows):
        buffer = io.BytesIO()
        Pillow.effect_noise((96, 96), rng.uniform(20, 60)).convert("RGB").save(buffer, "JPEG")
        samples.append(
            Sample(
                key=make_key("simulated", "train", number),
                dataset="simulated",
                task="vqa",
                turns=(Turn(instruction="<image>How many things are there?", response=f"Answer: {number}"),),
                images=(Image(extension="jpg", data=buffer.getvalue()),),
            )
        )
    write_shard(folder / "s0000000.tar", samples)
    for number in range(1, count):
        (folder / f"s{number:07d}.tar").hardlink_to(folder / "s0000000.tar")
    return shard_names(str(folder))


def from_logs(folder: Path, layout: OutputLayout) -> dict[str, float]:
    """Return the throughput that the rewriting actors logged, up to the commit of the last shard."""
    throughput = busy = span = rows = 0.0
    first = float("inf")
    for path in folder.iterdir():
        blocks = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
        own = max(end for _, end, _ in blocks) - min(start for start, _, _ in blocks)
        throughput += sum(count for _, _, count in blocks) / own
        busy += sum(end - start for start, end, _ in blocks)
        span += own
        rows += sum(count for _, _, count in blocks)
        first = min(first, *(start for start, _, _ in blocks))
    last = max(path.stat().st_mtime for path in Path(str(layout.root), "manifests").iterdir())
    return {"throughput": throughput, "busy": busy / span, "rows": rows, "whole": rows / (last - first)}


if __name__ == "__main__":
    main()
