"""A build on spot machines: one cluster loses a node every two minutes, the other loses none.

    python -m benchmarks.pipeline.spot --interval 120 --kills 10
    python -m benchmarks.pipeline.spot --interval 20 --kills 2 --out s3://flamingo/spot    # a bucket; see AWS_* below

Each run has a cluster of its own on this machine: a head without CPUs, on which the job's driver runs, and worker
nodes, each a process tree that SIGKILL ends as a whole. In the second run a worker node is killed at intervals and
replaced at once, so both have equal capacity. The job is the real one on real shards, but the models sleep
(`stand_ins.py`), also while they load, so two cores can host it.

Goodput is kept rows per second, from the first committed shard to the last. The table and the JSON result also count
rows that are lost (in no committed shard) and doubled. The exit status is 1 if there are any.

With `--out s3://…` the standard variables name the service: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks.pipeline.losable_cluster import LosableCluster, join
from benchmarks.pipeline.simulated_build import SCORING_SHARE, simulated_job, write_inputs
from benchmarks.pipeline.stand_ins import StandIn, StandInRewriterActor, StandInScoringActor
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout, read_quarantine, read_scored
from ray_jobs.build_pf1m import BuildConfig, rewrite_and_score
from ray_jobs.cluster import set_environment

ACTORS_PER_NODE = 2
CPUS_OF_ACTOR, CPUS_OF_SCORING = 1.0, 0.25
CPUS_OF_NODE = math.ceil(ACTORS_PER_NODE * CPUS_OF_ACTOR + CPUS_OF_SCORING)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run did.

    Attributes:
        run: "undisturbed" or "spot".
        rows: number of rows in its input.
        kept: rows in its committed shards.
        lost: rows in no committed shard.
        doubled: rows in more than one.
        seconds: from the first committed shard to the last.
        goodput: rows kept per second in that time.
        kills: seconds after the first committed shard at which a node was killed.
        noticed: for each kill, the seconds until Ray called the node dead, and started its actors elsewhere.
    """

    run: str
    rows: int
    kept: int
    lost: int
    doubled: int
    seconds: float
    goodput: float
    kills: list[float] = field(default_factory=list)
    noticed: list[float] = field(default_factory=list)


def main() -> int:
    """Parse the command line; run one of the two, or both, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="", help="folder or s3://bucket/prefix (default: a temporary folder)")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--interval", type=float, default=120.0, help="seconds between two kills (%(default)s)")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--shards", type=int, default=0, help="default: as many as the kills need time")
    parser.add_argument("--undisturbed-shards", type=int, default=0, help="of the run without kills (default: as many)")
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--seconds-per-row", type=float, default=0.25)
    parser.add_argument("--load-seconds", type=float, default=5.0, help="of an actor's model (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=None, help="a JSON file for the figures")
    parser.add_argument("--run", choices=["undisturbed", "spot"], default=None, help="only this one")
    options = parser.parse_args()
    actors = options.nodes * ACTORS_PER_NODE
    shard_seconds = options.rows_per_shard * options.seconds_per_row
    options.shards = options.shards or math.ceil((options.kills + 1) * options.interval * actors / shard_seconds)
    shards = {"undisturbed": options.undisturbed_shards or options.shards, "spot": options.shards}
    with tempfile.TemporaryDirectory(prefix="spot_") as made:
        if options.run:
            print("FIGURES", json.dumps(asdict(run(options, Path(made)))))
            return 0
        out = f"{options.out or made}/{secrets.token_hex(4)}"  # empty
        found = [in_new_process(options, name, f"{out}/{name}", shards[name]) for name in shards]
    conclude(options, found)
    return int(any(one.lost or one.doubled for one in found))


def in_new_process(options: argparse.Namespace, name: str, out: str, shards: int) -> Figures:
    """Run one of the two in a new process, which has a Ray of its own."""
    command = [sys.executable, "-m", "benchmarks.pipeline.spot", "--run", name, "--out", out, "--shards", str(shards)]
    for option in ("nodes", "interval", "kills", "rows_per_shard", "seconds_per_row", "load_seconds", "seed"):
        command += ["--" + option.replace("_", "-"), str(getattr(options, option))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    last = next(line for line in done.stdout.splitlines() if line.startswith("FIGURES "))  # Ray prints there too
    return Figures(**json.loads(last.partition(" ")[2]))


def conclude(options: argparse.Namespace, found: Sequence[Figures]) -> None:
    """Print the table and write the result."""
    machine = f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total >> 30} GiB, {platform.system()}"
    command = f"python -m benchmarks.pipeline.spot {' '.join(sys.argv[1:])}"
    ratio = found[1].goodput / found[0].goodput
    print(f"{command}\n{machine}; {options.nodes} nodes of {ACTORS_PER_NODE} rewriting actors; models are stand-ins")
    print(f"shards of {options.rows_per_shard} rows, {options.seconds_per_row} s a row")
    print("run          kills    rows    kept  lost  doubled  seconds  kept rows/s")
    for one in found:
        print(
            f"{one.run:<12} {len(one.kills):>5} {one.rows:>7} {one.kept:>7} {one.lost:>5} {one.doubled:>8}"
            f" {one.seconds:>8.0f} {one.goodput:>12.2f}"
        )
    noticed = found[1].noticed
    after = f"; Ray noticed a loss after {min(noticed):.0f} to {max(noticed):.0f} s" if noticed else ""
    print(f"goodput beside the undisturbed run: {ratio:.1%}{after}")
    if options.result:
        result = {"command": command, "machine": machine, "ratio": ratio, "runs": [asdict(one) for one in found]}
        options.result.write_text(json.dumps(result, indent=1) + "\n")


def run(options: argparse.Namespace, scratch: Path) -> Figures:
    """Start a cluster, build on it, count what is in the output."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    os.environ.update(RAY_worker_niceness="0", RAY_health_check_period_ms="1000")  # as in cluster.yaml
    set_environment({})
    import ray

    shards = write_inputs(scratch / "in", options.shards, options.rows_per_shard)
    layout = OutputLayout(root=options.out)
    cluster = LosableCluster()
    join(cluster.address)
    nodes = [cluster.add(CPUS_OF_NODE) for _ in range(options.nodes)]
    actors = options.nodes * ACTORS_PER_NODE
    rewriting = PoolConfig(min_actors=actors, max_actors=actors, cpus=CPUS_OF_ACTOR)
    scoring = PoolConfig(cpus=CPUS_OF_SCORING)
    stand_in = StandIn(seconds_per_row=options.seconds_per_row, load_seconds=options.load_seconds)
    scorer = StandIn(seconds_per_row=options.seconds_per_row * SCORING_SHARE, load_seconds=options.load_seconds)
    config = BuildConfig(
        input=str(scratch / "in"),
        out=options.out,
        rewriter=stand_in,  # type: ignore[arg-type]
        scoring=scorer,  # type: ignore[arg-type]
        pools=PoolsConfig(rewriting=rewriting, scoring=scoring, autoscaling=True),
    )
    kills = options.kills if options.run == "spot" else 0
    rng = random.Random(options.seed)

    def replace_one() -> None:
        cluster.lose(nodes.pop(rng.randrange(len(nodes))))
        nodes.append(cluster.add(CPUS_OF_NODE))

    with Disturbance(layout, replace_one, kills, options.interval) as disturbance:
        rewrite_and_score(simulated_job(layout), shards, config, None, StandInRewriterActor, StandInScoringActor)
    ray.shutdown()
    cluster.end()
    return figures(options, layout, disturbance)


def figures(options: argparse.Namespace, layout: OutputLayout, disturbance: Disturbance) -> Figures:
    """Count the rows in the output, as a reader of the ledger sees them."""
    found: Counter[tuple[str, str]] = Counter()
    kept = 0
    for name in layout.finished():
        samples = read_scored(layout, name)
        kept += len(samples)
        found.update((name, sample.key) for sample in samples)
        found.update((name, row.key) for row in read_quarantine(layout, name))
    rows, seconds = options.shards * options.rows_per_shard, disturbance.seconds
    return Figures(
        run=options.run, rows=rows, kept=kept, lost=rows - len(found), doubled=sum(found.values()) - len(found),
        seconds=seconds, goodput=kept / seconds, kills=disturbance.kills, noticed=disturbance.noticed,
    )  # fmt: skip


class Disturbance:
    """Times a job by its committed shards, and takes nodes away meanwhile; a context.

    Attributes:
        kills: seconds after the first committed shard at which a node was killed.
        noticed: for each kill, the seconds until Ray called the node dead.
        seconds: from the first committed shard to the last one.
    """

    def __init__(self, layout: OutputLayout, replace_one: Callable[[], None], kills: int, interval: float):
        self.kills: list[float] = []
        self.noticed: list[float] = []
        self.seconds = 0.0
        self._layout, self._replace_one, self._left, self._interval = layout, replace_one, kills, interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Disturbance:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        import ray

        began, finished, killed_at = None, 0, 0.0
        replacing: threading.Thread | None = None
        while not self._done.wait(0.5):
            if (now := len(self._layout.finished())) > finished:
                finished = now
                began = began or time.monotonic()
                self.seconds = time.monotonic() - began
            if began is None:
                continue
            if sum(not node["Alive"] for node in ray.nodes()) > len(self.noticed):
                self.noticed.append(round(time.monotonic() - killed_at, 1))
            since = time.monotonic() - began
            if self._left and since >= self._interval * (len(self.kills) + 1):
                killed_at = time.monotonic()
                self._left -= 1
                self.kills.append(round(since, 1))
                replacing = threading.Thread(target=self._replace_one)  # starting a node takes seconds
                replacing.start()
        if replacing is not None:
            replacing.join()


if __name__ == "__main__":
    sys.exit(main())
