"""What the actors share: run each block's rows under a guard, keep time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import ray

from actors.rows import SCHEMA, Block, blocks
from polite_flamingo.faults.guard import Guard, Work
from polite_flamingo.sample import Sample
from polite_flamingo.storage.journal import Journal
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.visibility import Probe, refuse_other_models


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How a pool's actors work, whatever their model.

    Attributes:
        out: the job's output folder, for the journal.
        rows_per_call: rows given to the model at once.
        max_failures_in_a_row: more end the job.
        actors: size of the pool at most.
        probe: what each of them must see in the output folder.
        models: name -> fingerprint of what they load, as the driver has it.
    """

    out: str
    rows_per_call: int
    max_failures_in_a_row: int
    actors: int
    probe: Probe | None = None
    models: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `OutOfReach` where this machine sees another output folder, or other models, than the driver."""
        if self.probe is not None:
            self.probe.check()
        refuse_other_models(self.models)

    def journal(self, stage: str) -> Journal:
        """Where the workers of `stage` leave their notes, under the name that Ray has for their machine."""
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        return Journal(OutputLayout(root=Path(self.out)).journal, stage, node, lost_nodes)


def lost_nodes() -> set[str]:
    """The machines that Ray calls dead."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def run_blocks(
    table: pa.Table, guard: Guard, journal: Journal, work: Work, check: Callable[[Sample], None] | None = None
) -> pa.Table:
    """Every block of the table through `guard`."""
    return pa.concat_tables(
        [_run(block, guard, journal, work, check) for block in blocks(table)] or [SCHEMA.empty_table()]
    )


def _run(block: Block, guard: Guard, journal: Journal, work: Work, check: Callable[[Sample], None] | None) -> pa.Table:
    started = time.perf_counter()
    note = journal.open(block.name, block.first)
    rows = guard.run(work, block.rows, block.shard, note, check, block.first)
    seconds = time.perf_counter() - started
    if guard.reason == "scoring_failed":
        return replace(block, rows=rows, scoring_seconds=seconds).to_table()
    return replace(block, rows=rows, rewriting_seconds=seconds).to_table()  # or distorting, where that is the stage
