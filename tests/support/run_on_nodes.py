"""`python -m tests.support.run_on_nodes FOLDER`: a build on two nodes, one of which is killed midway and not replaced.

The rest has room for all actors and for nothing else. Prints the outcome as JSON on the last line.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from polite_flamingo.faults import journal
from polite_flamingo.pools import PoolConfig, PoolsConfig
from ray_jobs.build_pf1m import build
from tests.support import fake_actors
from tests.support.build_world import config, outcome, write_world
from tests.support.patience import wait_until


def main(root: Path) -> None:
    slow = {(shard, row): "a slow row" for shard in range(8) for row in range(20)}
    source, out = write_world(root / "in", shards=8, rows=20, special=slow), root / "out"
    pools = PoolsConfig(
        rewriting=PoolConfig(min_actors=2, max_actors=2, cpus=0.75, rows_per_call=4),
        scoring=PoolConfig(cpus=0.5, rows_per_call=4),
    )
    memory = {"object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **memory})
    doomed = cluster.add_node(num_cpus=2, dashboard_agent_listen_port=0, **memory)
    ray.init(address=cluster.address, log_to_driver=False)

    def take_away() -> None:
        wait_until(lambda: journal.rows_done(out / "journal", "rewriting") > 0, 300)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=take_away)
    killer.start()
    build(replace(config(source, out), pools=pools), fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
    killer.join()
    nodes = [node["Alive"] for node in ray.nodes()]
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps({"nodes": sorted(nodes), **outcome(out)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
