"""`python -m tests.support.run_on_nodes FOLDER`: a build on two machines and a head without CPUs; both are lost.

One is killed midway: the job must go on with what the other one has room for, though actors that start again take
every CPU of it. Then the other one is killed: the job must say what it waits for, and go on when a third one comes.
The first shards wait for the first loss, the last ones for the third machine. Prints the outcome as JSON on the last
line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import ray

from benchmarks.pipeline.losable_cluster import LosableCluster
from polite_flamingo.faults import journal
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import node_loss
from ray_jobs.build_pf1m import build
from tests.support import fake_actors
from tests.support.build_world import config, outcome, write_world
from tests.support.patience import wait_until

SHARDS, ROWS, FIRST, LAST, PER_ACTOR = 8, 20, 4, 2, 2
"""When the first machine is lost, each of the two actors holds two shards, Ray Data's default. A restarted actor may
take a later shard first, so another shard may be queued behind each of the last ones."""


def main(root: Path) -> None:
    lost, rescued = root / "lost", root / "rescued"
    rows = {(shard, ROWS - 1): f"after {lost}" for shard in range(FIRST)}
    rows |= {(shard, ROWS - 1): f"after {rescued}" for shard in range(SHARDS - LAST, SHARDS)}
    source, out = write_world(root / "in", shards=SHARDS, rows=ROWS, special=rows), root / "out"
    layout = OutputLayout(root=out)
    pools = PoolsConfig(
        rewriting=PoolConfig(min_actors=2, max_actors=2, cpus=0.75, rows_per_call=4),
        scoring=PoolConfig(cpus=0.5, rows_per_call=4),
        task_cpus=1,
        autoscaling=True,
    )
    os.environ.update(RAY_health_check_period_ms="500")  # a dead node is noticed after five checks, by default of 3 s
    cluster = LosableCluster()
    ray.init(address=cluster.address, log_to_driver=False)
    nodes = [cluster.add(2), cluster.add(2)]
    node_loss.EVERY, node_loss.CHECK_SECONDS = 1.0, 0.2
    said = io.StringIO()

    def lose_all() -> None:
        wait_until(lambda: journal.rows_done(layout.journal, "rewriting") > 0, 300)
        cluster.lose(nodes[0])
        lost.touch()
        wait_until(lambda: len(layout.finished()) >= SHARDS - LAST * PER_ACTOR, 300)
        cluster.lose(nodes[1])
        wait_until(lambda: "1 machine alive with 0 CPUs" in said.getvalue(), 300)
        cluster.add(2)
        rescued.touch()

    killer = threading.Thread(target=lose_all)
    killer.start()
    job = replace(config(source, out), pools=pools)
    with contextlib.redirect_stderr(said):
        build(job, fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
    killer.join()
    alive = sum(node["Alive"] for node in ray.nodes())
    waited = next(line for line in said.getvalue().splitlines() if "1 machine alive" in line)
    ray.shutdown()
    cluster.end()
    print(json.dumps({"alive": alive, "said": waited, **outcome(out)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
