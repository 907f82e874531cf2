"""What the actors share: run each block's rows under a guard, keep time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from actors.rows import SCHEMA, Block, blocks
from polite_flamingo.guard import Guard, Work
from polite_flamingo.journal import Journal
from polite_flamingo.ledger import OutputLayout
from polite_flamingo.sample import Sample


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How a pool's actors work, whatever their model.

    Attributes:
        out: the job's output folder, for the journal.
        rows_per_call: rows given to the model at once.
        max_failures_in_a_row: more end the job.
        actors: size of the pool at most.
    """

    out: str
    rows_per_call: int
    max_failures_in_a_row: int
    actors: int

    def journal(self, stage: str) -> Journal:
        """Where the workers of `stage` leave their notes."""
        return Journal(OutputLayout(root=Path(self.out)).journal, stage)


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
