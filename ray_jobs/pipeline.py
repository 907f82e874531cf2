"""How shards go through actors and tasks on Ray Data. The only place that knows Ray Data's switches."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.source import ShardDatasource
from actors.stage import StageSettings, lost_nodes
from polite_flamingo.storage import journal
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.visibility import Probe, probing
from ray_jobs import lost_machines
from ray_jobs.cluster import PoolConfig, PoolsConfig
from ray_jobs.lost_machines import Watch, watched

LOOKING_SECONDS = 60.0
"""For the machines of a cluster to start a process that looks for the probe. Who takes longer looks when it works."""


def configure_data() -> None:
    """A block stays a whole shard, whatever its size; Ray's own bars and log lines give way to ours."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # looking at a worker's pages every second is 2 % of a core for each GB
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the job tells the cause itself
    warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated")  # Ray's own readers pass it
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks for")  # a few shards need fewer


@contextmanager
def shared(root: Path) -> Iterator[Probe]:
    """A probe in the output folder that every machine of the cluster has seen: what they write would be lost else.

    Machines that come later look for it when they are given work (`StageSettings.check`, `commit_blocks`).

    Raises:
        OutOfReach: one of them does not see it.
    """
    with probing(root) as probe:
        here = ray.get_runtime_context().get_node_id()
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        looks = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote(probe)
            for n in others
        ]
        done = ray.wait(looks, num_returns=len(looks), timeout=LOOKING_SECONDS)[0] if looks else []
        for one in done:
            try:
                ray.get(one)
            except ray.exceptions.RayTaskError:
                raise  # it looked, and did not see
            except ray.exceptions.RayError:
                continue  # the machine has gone
        yield probe


def _look(probe: Probe) -> None:
    probe.check()


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a job's stages have in common.

    Attributes:
        pools: who works.
        layout: of the output folder.
        probe: what everybody must see there.
        used: the pools that actors were taken from.
    """

    pools: PoolsConfig
    layout: OutputLayout
    probe: Probe
    used: list[PoolConfig] = field(default_factory=list)

    def read(self, source: ShardDatasource, shards: int) -> Dataset:
        """The shards of a source, a block each."""
        return ray.data.read_datasource(
            source, override_num_blocks=shards, num_cpus=self._task_cpus, concurrency=self._tasks_at_once
        )

    def actors(
        self, dataset: Dataset, actor: type, model: Any, pool: PoolConfig, models: Mapping[str, str] | None = None
    ) -> Dataset:
        """Every block through an actor of a pool.

        Dead actors are restarted and their block is tried again without end: the journal bounds it (`journal.py`),
        because only it can tell a row that kills from a machine that was taken away.

        `map_batches` itself refuses actors on GPUs without a `batch_size`, and with one it cuts shards and joins them.
        Ray Data's own `map_groups`, which also wants whole blocks on GPUs, calls what is called here.

        Args:
            dataset: blocks of rows.
            actor: a class of `actors/`.
            model: its first argument; what it loads.
            pool: of the actors.
            models: name -> fingerprint of the models in it.
        """
        settings = StageSettings(
            out=str(self.layout.root.resolve()),
            rows_per_call=pool.rows_per_call,
            max_failures_in_a_row=self.pools.max_failures_in_a_row,
            actors=pool.max_actors,
            probe=self.probe,
            models=models or {},
        )
        self.used.append(pool)
        return dataset.map_batches_internal(
            actor,
            fn_constructor_args=(model, settings),
            compute=ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=-1,
            max_task_retries=-1,
        )

    def tasks(self, dataset: Dataset, function: Callable[..., Any], **arguments: Any) -> Dataset:
        """Every block through a function, which is told of the probe."""
        return dataset.map_batches(
            function,
            fn_kwargs={**arguments, "probe": self.probe},
            compute=TaskPoolStrategy(size=self._tasks_at_once),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._task_cpus,
        )

    def results(self, dataset: Dataset) -> Iterator[dict[str, Any]]:
        """What the last stage gives, as it comes.

        Raises:
            JobFailed: a machine was lost, and what is left cannot go on (`lost_machines.py`).
        """
        folder = self.layout.journal
        watch = Watch(
            self.used,
            lambda: (journal.rows_done(folder, "*"), len(list(folder.glob("*.json")))),
            lost_nodes,
            ray.cluster_resources,
            math.inf if self.pools.autoscaling else lost_machines.PATIENCE,
        )
        with watched(watch):
            yield from dataset.iter_rows()

    @property
    def _task_cpus(self) -> float:
        """Logical CPUs of a task.

        None where no machine comes for one that is lost: Ray starts the lost actors again on what is left, and where
        these take every CPU, a task that wants a part of one waits for ever.
        """
        return self.pools.task_cpus if self.pools.autoscaling else 0

    @property
    def _tasks_at_once(self) -> int:
        """As many as there are actors to feed: what takes no CPU is bounded by nothing else."""
        pools = (self.pools.rewriting, self.pools.scoring, self.pools.distorting)
        return max(2, *(pool.max_actors for pool in pools))
