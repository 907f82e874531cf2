"""Run shards through pools of actors on Ray Data. The only module that knows Ray Data's options.

A block is a whole shard from the read task to the write. Ray restarts dead actors and retries their block without
limit: the journal sets the limit, because only it can tell a row that kills workers from a machine that was taken away.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from actors.base import ActorSettings, PoolActor
from actors.rows import Row
from actors.source import ShardDatasource
from polite_flamingo.faults import journal
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.probe import Probe, probing
from ray_jobs import node_loss
from ray_jobs.node_loss import Watch, watched
from ray_jobs.progress import progress
from ray_jobs.ray_start import on_each_node

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARDS_PER_RUN = 2_000
"""Ray Data's driver keeps 20 to 30 kB per shard, which it frees at the end of a run. A job with more shards is several
runs, one after the other; restarting the actors costs little compared with the hours that so many shards take."""

TASK_CPUS = 0.0
"""Logical CPUs of a task that reads or writes. Ray restarts the actors of a lost machine on those that are left, and if
they take every CPU, a task that wants a part of one waits forever; for a new machine too, which may never come."""

SECONDS_IN_BUCKET = 10.0
"""Seconds between two looks at the rows in work, if each is a request for every shard that is with an actor."""

PROBE_SECONDS = 60.0
"""Seconds for the machines of a cluster to start a process that looks for the probe. Slower ones look once they
work."""


@dataclass(frozen=True)
class ActorPool:
    """A pool of actors that every shard goes through.

    Attributes:
        actor: their class.
        config: its first argument: what the actors load, and how it works.
        size: how many there are, and what each takes from a machine.
        models: name -> fingerprint of the models they load, for comparison with the files on their machines.
        shards_at_once: shards that an actor has in work, each in a thread: more than one keeps a server busy while one
            shard ends and the next begins.
    """

    actor: type[PoolActor]
    config: Any
    size: PoolConfig
    models: Mapping[str, str] = field(default_factory=dict)
    shards_at_once: int = 1


def run_shards(
    shards: Mapping[str, Location],
    through: Sequence[ActorPool],
    write: partial[Any] | None,
    *,
    layout: OutputLayout,
    pools: PoolsConfig,
    config_hash: str = "",
    prepare: Callable[[list[Row]], list[Row]] | None = None,
    waiting: str = "loading models",
) -> Iterator[dict[str, Any]]:
    """Read shards, send them through pools of actors and write them, on the Ray that this process has joined.

    Args:
        shards: name -> where.
        through: the pools, in order.
        write: a function of `actors/` that puts whole shards on disk; None if the last actor does.
        layout: the output folder.
        pools: what all pools have in common.
        config_hash: for the provenance of each sample.
        prepare: see `ShardDatasource`.
        waiting: what to print until the first row is done.

    Yields:
        A row of `actors.commit.FINISHED` for each shard that is on disk, as it comes.

    Raises:
        PathUnavailable: a machine does not see the output folder, an input, or a model as the driver does.
        JobFailed: a machine was lost, and those that are left cannot continue (`node_loss.py`).
    """
    configure_data()
    layout.sweep()
    layout.clear_parts()
    journal.clear(layout.journal)
    names, stats, missing = list(shards), [], set(shards)
    patience = math.inf if pools.autoscaling else node_loss.PATIENCE
    rows_in_work = partial(journal.rows_done, layout.journal, through[0].actor.name)

    def progress_made() -> tuple[int, int]:
        return journal.rows_done(layout.journal), len(layout.journal.names(".json"))

    every = SECONDS_IN_BUCKET if layout.root.local is None else 1.0
    with seen_by_all(layout.root) as probe, progress(len(shards), rows_in_work, waiting, every) as advance:
        for start in range(0, len(names), SHARDS_PER_RUN):
            some = {name: shards[name] for name in names[start : start + SHARDS_PER_RUN]}
            sized = [replace(pool, size=pool.size.for_shards(len(some))) for pool in through]
            dataset = ray.data.read_datasource(
                ShardDatasource(some, config_hash, prepare), override_num_blocks=len(some),
                num_cpus=TASK_CPUS, concurrency=_tasks_at_once(sized),
            )  # fmt: skip
            for pool in sized:
                dataset = _through_actors(dataset, pool, layout, pools, probe)
            if write is not None:
                dataset = _through_tasks(dataset, write, _tasks_at_once(sized), probe)
            with watched(Watch([pool.size for pool in sized], progress_made, ray.nodes, patience), every):
                for shard in dataset.iter_rows():
                    advance(1, shard["rows_in"])
                    missing.discard(shard["name"])
                    yield shard
            stats.append(dataset.stats())
    layout.ray_stats.put("\n\n".join(stats))
    assert not missing, f"shards were neither written nor reported: {sorted(missing)[:10]}"
    layout.clear_parts()


def configure_data() -> None:
    """Keep a block a whole shard whatever its size, and silence Ray's own bars and log lines."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # polling a worker's memory every second costs 2 % of a core per GB
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the job reports the cause itself
    warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated")  # Ray's own readers pass it
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks for")  # a few shards need fewer


@contextmanager
def seen_by_all(root: Location) -> Iterator[Probe]:
    """Put a probe into the output folder and have every machine of the cluster look for it: results would be lost else.

    Machines that join later look for it when they get work (`ActorSettings.check`, `commit_blocks`).

    Raises:
        PathUnavailable: one of them does not see it.
    """
    with probing(root) as probe:
        here = ray.get_runtime_context().get_node_id()
        for _, answer in on_each_node(Probe.check, probe, timeout=PROBE_SECONDS, skip=here):
            try:
                ray.get(answer)
            except ray.exceptions.RayTaskError:
                raise  # the machine looked and did not see it
            except ray.exceptions.RayError:
                continue  # the machine is gone
        yield probe


def tasks_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, as `in_order` does with threads.

    Each task goes to another machine than the one before; as many are begun as the cluster has CPUs.

    Raises:
        Exception: what the function raised on the first item that failed.
    """
    called = ray.put(function)
    task = ray.remote(num_cpus=TASK_CPUS, max_retries=-1, scheduling_strategy="SPREAD")(_call)
    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
    begun: deque[ray.ObjectRef] = deque()
    try:
        for item in items:
            begun.append(task.remote(called, item))
            if len(begun) == at_once:
                yield ray.get(begun.popleft())
        while begun:
            yield ray.get(begun.popleft())
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    finally:
        for left in begun:
            ray.cancel(left)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _through_actors(
    dataset: Dataset, pool: ActorPool, layout: OutputLayout, pools: PoolsConfig, probe: Probe
) -> Dataset:
    """Send every block through an actor of a pool.

    `map_batches` itself refuses actors on GPUs without a `batch_size`, and with one it cuts shards and joins them.
    Ray Data's own `map_groups`, which also wants whole blocks on GPUs, calls what is called here.
    """
    settings = ActorSettings(
        out=layout.absolute().root,
        rows_per_call=pool.size.rows_per_call,
        max_failures_in_a_row=pools.max_failures_in_a_row,
        actors=pool.size.max_actors,
        cpus=pool.size.cpus / pool.shards_at_once,
        gpus=pool.size.gpus / pool.shards_at_once,
        probe=probe,
        models=pool.models,
    )
    return dataset.map_batches_internal(
        pool.actor,
        fn_constructor_args=(pool.config, settings),
        compute=ActorPoolStrategy(
            min_size=pool.size.min_actors, max_size=pool.size.max_actors, **_in_threads(pool.shards_at_once)
        ),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=pool.size.cpus,
        num_gpus=pool.size.gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )


def _in_threads(shards_at_once: int) -> dict[str, Any]:
    """Return the options of an actor that has several blocks in work."""
    if shards_at_once == 1:
        return {}
    return {"enable_true_multi_threading": True, "max_concurrent_calls_per_actor": shards_at_once}


def _through_tasks(dataset: Dataset, function: partial[Any], at_once: int, probe: Probe) -> Dataset:
    """Send every block through a function, which also gets the probe."""
    return dataset.map_batches(
        function.func,
        fn_kwargs={**function.keywords, "probe": probe},
        compute=TaskPoolStrategy(size=at_once),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )


def _tasks_at_once(pools: Sequence[ActorPool]) -> int:
    """Return as many tasks as there are actors to feed: nothing else limits tasks that take no CPU."""
    return max(2, *(pool.size.max_actors * pool.shards_at_once for pool in pools))
