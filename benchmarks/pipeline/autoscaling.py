"""A build on Ray's own autoscaler: the number of nodes over time, from none to those the job needs and back to none.

    python -m benchmarks.pipeline.autoscaling --shards 6 --rows-per-shard 40 --seconds-per-row 0.5

Node types are those of `cluster.yaml`, pools those of `profiles/openflamingo-9b-v1.yaml`, with `--pools.autoscaling
true`. What is not real: the nodes are processes on this machine (`fake_cloud.py`), and the models sleep
(`stand_ins.py`). It prints a line whenever something changes, until the last node has stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.pipeline import fake_cloud
from benchmarks.pipeline.losable_cluster import join
from benchmarks.pipeline.simulated_build import SCORING_SHARE, simulated_job, write_inputs
from benchmarks.pipeline.stand_ins import StandIn, StandInRewriterActor, StandInScoringActor
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, rewrite_and_score
from ray_jobs.cluster import set_environment

PROFILE = fake_cloud.REPO / "profiles" / "openflamingo-9b-v1.yaml"


def main() -> None:
    """Parse the command line, build, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--rows-per-shard", type=int, default=40)
    parser.add_argument("--seconds-per-row", type=float, default=0.5)
    parser.add_argument("--cpu-nodes", type=int, default=2, help="at most")
    parser.add_argument("--gpu-nodes", type=int, default=4, help="at most")
    parser.add_argument("--idle-minutes", type=float, default=0.5, help="until an idle node is stopped (%(default)s)")
    parser.add_argument("--pools", nargs="*", default=[], help="further options of the job, as --pools scoring.gpus=0")
    options = parser.parse_args()
    fake_cloud.enter_namespaces()
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    os.environ["RAY_DEDUP_LOGS"] = "0"
    set_environment({})
    cluster = fake_cloud.configuration(
        options.idle_minutes, {"cpu_worker": options.cpu_nodes, "gpu_worker": options.gpu_nodes}
    )
    print(f"python -m benchmarks.pipeline.autoscaling {' '.join(sys.argv[1:])}; {os.cpu_count()} CPU cores")
    with (
        tempfile.TemporaryDirectory(prefix="pf", ignore_cleanup_errors=True) as made,
        fake_cloud.head(Path(made), cluster) as address,
    ):
        run(options, Path(made), address)


def run(options: argparse.Namespace, root: Path, address: str) -> None:
    """Build on the cluster at `address`, then wait until no worker node is left."""
    import ray

    shards = write_inputs(root / "in", options.shards, options.rows_per_shard)
    layout = OutputLayout(root=root / "out")
    settings = ["--profile", str(PROFILE), "--input", str(root / "in"), "--out", str(layout.root)]
    settings += ["--pools.autoscaling", "true"]
    for option in options.pools:
        settings += ["--pools." + option.partition("=")[0], option.partition("=")[2]]
    config: BuildConfig = console.parse("build_pf1m", "", BuildConfig, settings)
    latency = options.seconds_per_row
    config = replace(
        config,
        rewriter=StandIn(seconds_per_row=latency),  # type: ignore[arg-type]
        scoring=StandIn(seconds_per_row=latency * SCORING_SHARE),  # type: ignore[arg-type]
    )
    join_head(address, root / "head.log")
    print(described(config.pools))
    table = Table(layout)
    with table:
        rewrite_and_score(simulated_job(layout), shards, config, None, StandInRewriterActor, StandInScoringActor)
        assert len(layout.finished()) == len(shards)
        table.note = "the job has ended"
        deadline = time.monotonic() + 60 * options.idle_minutes + 300
        while table.workers and time.monotonic() < deadline:
            time.sleep(1)
    ray.shutdown()
    if table.workers:
        raise SystemExit(f"{table.workers} nodes did not stop")
    print(f"most nodes at once: {table.most_cpu} of CPUs, {table.most_gpu} of GPUs; none left")


def join_head(address: str, log: Path) -> None:
    """Join the head once it answers."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return join(address)
        except Exception as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"the head did not start: {error}\n{log.read_text()[-3000:]}") from error
            time.sleep(1)


def described(pools: PoolsConfig) -> str:
    """Say what the pools of a build take."""
    return "; ".join(
        f"{name}: {pool.min_actors} to {pool.max_actors} actors of {pool.cpus:g} CPUs and {pool.gpus:g} GPUs"
        for name, pool in (("rewriting", pools.rewriting), ("scoring", pools.scoring))
    )


class Table:
    """Prints a line whenever the cluster or the job has changed, from a thread; a context."""

    def __init__(self, layout: OutputLayout):
        self.note = ""
        self.workers = self.most_cpu = self.most_gpu = 0
        self._layout, self._done = layout, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        print("     s  CPU nodes  GPU nodes  CPUs in use  GPUs in use  shards done")
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import ray

        began, before = time.monotonic(), None
        while not self._done.wait(1.0):
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpu = sum(node.get("GPU", 0) > 0 for node in alive)
            cpu = sum(node.get("CPU", 0) > 0 for node in alive) - gpu
            total, free = ray.cluster_resources(), ray.available_resources()
            used = [total.get(kind, 0.0) - free.get(kind, 0.0) for kind in ("CPU", "GPU")]
            self.workers, self.most_cpu, self.most_gpu = cpu + gpu, max(self.most_cpu, cpu), max(self.most_gpu, gpu)
            now = cpu, gpu, *used, len(self._layout.finished()), self.note
            if now != before:
                before = now
                seconds = time.monotonic() - began
                print(f"{seconds:6.0f} {cpu:>10} {gpu:>10} {used[0]:>12.1f} {used[1]:>12.1f} {now[4]:>12}  {self.note}")


if __name__ == "__main__":
    main()
