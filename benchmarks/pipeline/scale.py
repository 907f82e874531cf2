"""SIMULATIONS of scale on one small machine: no model, GPU or cluster, but the job's own code and real shards.

    python -m benchmarks.pipeline.scale actors --actors 1 4 16 64   does throughput grow with the number of GPU actors?
    python -m benchmarks.pipeline.scale memory --shards 100 1000 10000    does the driver's memory grow with the shards?
    python -m benchmarks.pipeline.scale ledger --manifests 1000000   how long until such a job knows what is left?

**actors**: runs `build_pf1m.rewrite_and_score` on a private Ray with as many logical CPUs as it asks for, whatever the
machine has. Shards are read, checked, journalled and committed with fsync as always, but the models are stand-ins that
sleep (`stand_ins.py`), each row for a time that depends on its key. A GPU machine has CPU cores for its GPUs; here all
actors share this machine's, so the latency per row is long enough for the work around it. `CPU s/row` is that work, and
shows how many rows per second one core can carry. Throughput is the sum over actors of rows / (end of the last block -
start of the first): gaps between blocks count, but not the start of processes and the tail when shards run out
(`rows/s, whole run` includes the tail). Efficiency is throughput / (actors x that of a single one).

**memory**: the same with instant stand-ins and shards of one row; prints the driver's resident memory at the start and
at its peak. A job of more than `--shards-a-run` shards (`pipeline.SHARDS_PER_RUN`) is several runs.

**ledger**: a folder with that many input tars (empty) and manifests. `--before` also measures earlier versions of the
job, which asked the file system about each shard and read every manifest. The last step is all of `build_pf1m.build` up
to the moment when the remaining shard goes to Ray.

Temporary files go under --folder (default: the system's) and are removed at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from PIL import Image as Pillow

from benchmarks.pipeline.stand_ins import StandIn, StandInRewriterActor, StandInScoringActor
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    names_in,
    read_manifest,
    shard_names,
    unfinished,
    write_manifest,
)
from polite_flamingo.storage.run_info import RunInfo, write_run
from polite_flamingo.storage.shards import write_shard
from ray_jobs import build_pf1m
from ray_jobs.build_pf1m import BuildConfig, rewrite_and_score
from ray_jobs.cluster import set_environment
from ray_jobs.resumable_job import ShardJob

SHARDS_PER_RUN = 10_000
"""As `pipeline.SHARDS_PER_RUN`, which is not imported here because it brings Ray along."""

SCORING_SHARE = 1 / 40
"""Of a row's rewriting, its scoring takes this long; a scoring actor serves sixteen rewriting ones."""

MB = 1 << 20


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="folder for temporary files")
    modes = parser.add_subparsers(dest="mode", required=True)
    actors = modes.add_parser("actors")
    actors.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16, 64])
    actors.add_argument("--rows-per-shard", type=int, default=128)
    actors.add_argument("--seconds-per-row", type=float, default=0.25)
    actors.add_argument("--shards-per-actor", type=int, default=4)
    memory = modes.add_parser("memory")
    memory.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10_000])
    memory.add_argument("--shards-a-run", type=int, default=SHARDS_PER_RUN)
    ledger = modes.add_parser("ledger")
    ledger.add_argument("--manifests", type=int, default=1_000_000)
    ledger.add_argument("--before", action="store_true", help="also measure earlier versions: minutes to hours")
    one = modes.add_parser("one", help="one run of `actors` or `memory`, in its own process")
    for name in ("--actors", "--shards", "--rows-per-shard", "--shards-a-run"):
        one.add_argument(name, type=int)
    one.add_argument("--seconds-per-row", type=float)
    options = parser.parse_args()
    if options.mode != "one":
        print(f"SIMULATION: python -m benchmarks.pipeline.scale {' '.join(sys.argv[1:])}")
        print(f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total >> 30} GiB; Python {sys.version.split()[0]}")
    {"actors": run_actors, "memory": run_memory, "ledger": run_ledger, "one": run_one}[options.mode](options)


def run_actors(options: argparse.Namespace) -> None:
    """The table of `actors`."""
    options.shards_a_run = SHARDS_PER_RUN
    print(f"a row takes {options.seconds_per_row} s (stand-in), a shard has {options.rows_per_shard} rows")
    print(" actors  shards  rows/s  efficiency  busy  rows/s, whole run  CPU s/row  driver MB  all processes MB")
    single = 0.0
    for count in options.actors:
        found = in_a_process(options, count, count * options.shards_per_actor)
        single = single or found["throughput"] / count
        print(
            f"{count:>7} {found['shards']:>7.0f} {found['throughput']:>7.2f}"
            f" {found['throughput'] / count / single:>11.1%}"
            f" {found['busy']:>5.1%} {found['whole']:>18.2f} {found['cpu'] / found['rows']:>10.4f}"
            f" {found['driver_peak'] / MB:>10.0f} {found['all_peak'] / MB:>17.0f}",
            flush=True,
        )


def run_memory(options: argparse.Namespace) -> None:
    """The table of `memory`."""
    options.rows_per_shard, options.seconds_per_row = 1, 0.0
    print(f"at most {options.shards_a_run} shards a run")
    print("  shards  seconds  driver at the start MB  driver at its highest MB  grown MB  kB a shard")
    for count in options.shards:
        found = in_a_process(options, 1, count)
        grown = found["driver_peak"] - found["driver_start"]
        print(
            f"{count:>8} {found['seconds']:>8.0f}"
            f" {found['driver_start'] / MB:>23.0f} {found['driver_peak'] / MB:>25.0f}"
            f" {grown / MB:>9.1f} {grown / 1024 / count:>11.2f}",
            flush=True,
        )


def in_a_process(options: argparse.Namespace, actors: int, shards: int) -> dict[str, float]:
    """`run_one` in a fresh process; its figures."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.pipeline.scale",
        *(["--folder", str(options.folder)] if options.folder else []),
    ]
    command += ["one", "--actors", str(actors), "--shards", str(shards)]
    command += ["--rows-per-shard", str(options.rows_per_shard), "--seconds-per-row", str(options.seconds_per_row)]
    command += ["--shards-a-run", str(options.shards_a_run)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("FIGURE ")]  # Ray prints there too
    return {name: float(value) for _, name, value in lines}


def run_one(options: argparse.Namespace) -> None:
    """Build some shards with stand-ins; print figures, one a line."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    os.environ.update(RAY_worker_niceness="0")
    set_environment({})
    import logging

    import ray

    rewriting, scoring = options.actors, max(1, options.actors // 16)
    pools = PoolsConfig(
        rewriting=PoolConfig(min_actors=rewriting, max_actors=rewriting, cpus=0.05),
        scoring=PoolConfig(min_actors=scoring, max_actors=scoring, cpus=0.05),
    )
    with tempfile.TemporaryDirectory(prefix="scale_", dir=options.folder) as made:
        root = Path(made)
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
        ray.init(
            address="local",
            num_cpus=int(pools.needs().cpus + 1.999),  # four tasks that read or write; workers start so many at a time
            include_dashboard=False,
            object_store_memory=400 * MB,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        import ray.data  # of the driver's memory, what does not depend on the shards

        from ray_jobs import pipeline

        watch = Watch()
        started = time.monotonic()
        job = simulated(layout)
        with mock.patch.object(pipeline, "SHARDS_PER_RUN", options.shards_a_run):
            rewrite_and_score(job, shards, config, None, StandInRewriterActor, StandInScoringActor)
        seconds = time.monotonic() - started
        figures = {**watch.stop(), **from_logs(root / "log", layout), "seconds": seconds, "shards": len(shards)}
        assert len(layout.finished()) == len(shards)
        ray.shutdown()
    for name, value in figures.items():
        print("FIGURE", name, value)


def simulated(layout: OutputLayout) -> ShardJob:
    """A job without models."""
    return ShardJob(layout=layout, identity="simulation", models={}, config="")


def from_logs(folder: Path, layout: OutputLayout) -> dict[str, float]:
    """What the rewriting actors noted, and when the last shard was committed."""
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
    last = max(path.stat().st_mtime for path in layout.manifest("").parent.iterdir())
    return {"throughput": throughput, "busy": busy / span, "rows": rows, "whole": rows / (last - first)}


class Watch:
    """Samples the memory of this process and of its descendants, and adds up their CPU time."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._start = self._peak = self._own.memory_info().rss
        self._all = 0
        self._cpu: dict[tuple[int, float], float] = {}
        self._before = self._times()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _times(self) -> float:
        for member in [self._own, *self._own.children(recursive=True)]:
            try:
                used = member.cpu_times()
                self._cpu[member.pid, member.create_time()] = used.user + used.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._cpu.values())

    def _sample(self) -> None:
        ticks = 0
        while not self._done.wait(0.5):
            self._peak = max(self._peak, self._own.memory_info().rss)
            ticks += 1
            if ticks % 20 == 0:  # inspecting a hundred processes costs CPU, which is being measured
                self._times()
                self._all = max(self._all, held([self._own, *self._own.children(recursive=True)]))

    def stop(self) -> dict[str, float]:
        """The figures."""
        self._done.set()
        self._thread.join()
        return {
            "driver_start": self._start,
            "driver_peak": self._peak,
            "all_peak": max(self._all, held([self._own, *self._own.children(recursive=True)])),
            "cpu": self._times() - self._before,
        }


def held(processes: list[psutil.Process]) -> int:
    """Return the USS of processes, in bytes."""
    total = 0
    for member in processes:
        try:
            total += member.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def write_inputs(folder: Path, count: int, rows: int) -> dict[str, Path]:
    """Write shards of rows with a small picture each; all are links to one file, since shards are independent."""
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


def run_ledger(options: argparse.Namespace) -> None:
    """The table of `ledger`."""
    with tempfile.TemporaryDirectory(prefix="scale_", dir=options.folder) as made:
        layout = OutputLayout(root=Path(made) / "out")
        source = Path(made) / "in"
        started = time.monotonic()
        fill(layout, source, options.manifests)
        print(f"{options.manifests:,} tars, manifests and key files made in {time.monotonic() - started:.0f} s")
        print(f"{'step':<46} seconds    CPU" + (" before    CPU" if options.before else ""))
        timed = partial(time_of, options.before)
        shards = timed("input shards (shard_names)", lambda: shard_names(str(source)), lambda: old_names(source))
        finished = timed("finished()", layout.finished, lambda: old_finished(layout))
        assert len(finished) == options.manifests - 1
        left = timed(
            "what is left to do (unfinished)",
            lambda: unfinished(layout, shards),
            lambda: {name: path for name, path in shards.items() if not layout.manifest(name).exists()},
        )
        assert len(left) == 1
        timed(
            "same configuration?",
            simulated(layout).refuse_other_configuration,
            lambda: [read_manifest(layout.manifest(name)).config_hash for name in finished],
        )
        timed("same input?", lambda: simulated(layout).refuse_changed_input({n: shards[n] for n in finished}))
        timed("remove what killed writers left (sweep)", layout.sweep, lambda: list(layout.root.rglob("*.tmp-*")))
        keys = layout.keys("").parent
        timed(
            "select: who has keys",
            lambda: len(set(names_in(keys, ".keys")).intersection(finished)),
            lambda: len([name for name in finished if layout.keys(name).exists()]),
        )
        timed("build(), until Ray gets the shard that is left", lambda: resume(source, layout))
        print(f"highest memory of the process: {peak() / MB:,.0f} MB")


class Resumed(Exception):
    """Raised at the point where Ray would start."""


def resume(source: Path, layout: OutputLayout) -> None:
    """`build`, with the models' fingerprints given and Ray not started."""
    config = BuildConfig(
        input=str(source),
        out=str(layout.root),
        rewriter=StandIn(),  # type: ignore[arg-type]
        scoring=StandIn(),  # type: ignore[arg-type]
    )
    with (
        mock.patch.object(build_pf1m, "identify", return_value=("simulation", {})),
        mock.patch.object(build_pf1m, "running_ray", side_effect=Resumed),
        suppress(Resumed),
    ):
        build_pf1m.build(config)
        raise AssertionError("there was a shard to do")


def fill(layout: OutputLayout, source: Path, count: int) -> None:
    """Inputs, manifests and key files; one shard is left to do."""
    manifest = Manifest(shard="in/s.tar", rows_in=1000, scored=999, quarantined=1, config_hash="simulation")
    run = RunInfo(
        title="", command="", started="2026-01-01T00:00:00+00:00", config_hash="simulation", models=(), versions={},
        config="",
    )  # fmt: skip
    write_run(layout, run)
    write_manifest(layout.manifest("s0000000"), manifest)
    source.mkdir()
    layout.keys("").parent.mkdir()
    for number in range(count):
        path = source / f"s{number:07d}.tar"
        path.touch()
        if number < count - 1:
            record = asdict(replace(manifest, input=InputFile.at(path)))
            layout.manifest(f"s{number:07d}").write_text(json.dumps(record, indent=1))
            layout.keys(f"s{number:07d}").touch()


def old_names(source: Path) -> dict[str, Path]:
    """As `shard_names` was."""
    found = sorted(source.rglob("*.tar"))
    return {"__".join(path.relative_to(source).with_suffix("").parts): path for path in found}


def old_finished(layout: OutputLayout) -> list[str]:
    """As `finished` was."""
    return sorted(path.stem for path in layout.manifest("").parent.glob("*.json"))


def time_of(both: bool, step: str, now: Callable[[], Any], before: Callable[[], Any] | None = None) -> Any:
    """Run it, and the old way where that is asked for; print the seconds and those of CPU, return what it found."""
    line = f"{step:<46}"
    found = None
    for run in (now, before)[: 1 + (both and before is not None)]:
        assert run is not None
        started, cpu = time.monotonic(), time.process_time()
        result = run()
        line += f" {time.monotonic() - started:>7.2f} {time.process_time() - cpu:>6.2f}"
        found = result if run is now else found
    print(line, flush=True)
    return found


def peak() -> int:
    """Return this process's peak memory in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
