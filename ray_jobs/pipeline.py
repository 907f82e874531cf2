"""How a stage of actors is put on Ray Data. The only place that knows Ray Data's switches."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from ray.data import ActorPoolStrategy, DataContext

from actors.stage import StageSettings
from polite_flamingo.ledger import OutputLayout
from ray_jobs.cluster import PoolConfig, PoolsConfig


def configure_data() -> None:
    """A block stays a whole shard, whatever its size; Ray's own bars and log lines give way to ours."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # looking at a worker's pages every second is 2 % of a core for each GB
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the job tells the cause itself
    warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated")  # Ray's own readers pass it


def stage(actor: type, model: Any, pool: PoolConfig, pools: PoolsConfig, layout: OutputLayout) -> dict[str, Any]:
    """Arguments of `Dataset.map_batches` for a pool of actors.

    Dead actors are restarted and their block is tried again without end: the journal bounds it (`journal.py`), because
    only it can tell a row that kills from a machine that was taken away.
    """
    settings = StageSettings(
        out=str(layout.root.resolve()),
        rows_per_call=pool.rows_per_call,
        max_failures_in_a_row=pools.max_failures_in_a_row,
        actors=pool.max_actors,
    )
    return {
        "fn": actor,
        "fn_constructor_args": (model, settings),
        "compute": ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
