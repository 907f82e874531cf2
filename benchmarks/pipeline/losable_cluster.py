"""A Ray cluster on this machine whose nodes can be lost like machines: each is a process tree of its own."""

from __future__ import annotations

import atexit
import logging
from contextlib import suppress
from typing import Any

import psutil

TRIES = 10


def join(address: str) -> None:
    """Join the cluster at `address` as a driver that prints nothing of what goes on there."""
    import ray

    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    ray._private.worker._worker_logs_enabled = False  # else pages of a lost node's log go to standard output


class LosableCluster:
    """A head without CPUs, and worker nodes that come and go.

    Attributes:
        address: of the head, which a driver should join before there is another node.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._options = {"object_store_memory": 150 << 20, "include_dashboard": False}
        # Hooks at exit would be signal handlers, and only the main thread may set those: `add` is for any thread.
        self._cluster = Cluster(
            initialize_head=True, shutdown_at_exit=False, head_node_args={"num_cpus": 0, **self._options}
        )
        atexit.register(self.end)
        self.address: str = self._cluster.address

    def add(self, cpus: int) -> Any:
        """Start a worker node, and return it once it is there. On a busy machine a node may give up while it starts."""
        for left in reversed(range(TRIES)):
            try:
                return self._cluster.add_node(num_cpus=cpus, **self._options)
            except Exception:
                if not left:
                    raise
        raise AssertionError

    def lose(self, node: Any) -> None:
        """Kill everything that runs on a node at once, as if its machine were gone."""
        daemons = [started.process for several in node.all_processes.values() for started in several]
        doomed = [psutil.Process(daemon.pid) for daemon in daemons if daemon.poll() is None]
        for process in [*doomed, *(child for one in doomed for child in one.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for daemon in daemons:
            daemon.wait()
        self._cluster.worker_nodes.discard(node)

    def end(self) -> None:
        """Leave it and stop everything; also called at exit."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()
