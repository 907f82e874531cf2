"""The last step of a block: put its shard on disk, or keep the part until the rest is there.

Normally a block is a whole shard and is committed at once. Should the scheduler have split it, the parts wait as files
under OUT/parts; whichever writer finds the set complete joins them. Two may find that at the same time: both write the
same bytes, and a rename is atomic.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from actors.rows import SCHEMA, Block, Row, blocks
from polite_flamingo.sample import Quarantined
from polite_flamingo.storage import journal
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.shards import write_atomically
from polite_flamingo.storage.visibility import Probe

DONE = pa.schema(
    [
        ("name", pa.string()),
        ("rows_in", pa.int64()),
        ("quarantined", pa.int64()),
        ("rewriting_seconds", pa.float64()),
        ("scoring_seconds", pa.float64()),
    ]
)


STAGES = ("rewriting", "scoring")
Describe = Callable[[Sequence[Row]], Mapping[str, Any]]


def _nothing(rows: Sequence[Row]) -> Mapping[str, Any]:
    """A build has no figures of its own: a selection counts the samples themselves."""
    return {}


def commit_blocks(
    table: pa.Table,
    layout: OutputLayout,
    config_hash: str,
    stages: Sequence[str] = STAGES,
    describe: Describe = _nothing,
    probe: Probe | None = None,
) -> pa.Table:
    """Commit what is complete; return one row (of schema `DONE`) a shard that is now on disk.

    Args:
        table: rows, of one or more shards.
        layout: of the output folder.
        config_hash: of the run.
        stages: what the job calls the stages whose seconds the rows carry; one name for a job of one stage.
        describe: figures of a shard's rows for its manifest, beside the reasons of what was quarantined.
        probe: what this machine must see in the output folder.

    Raises:
        OutOfReach: it does not see it.
    """
    if probe is not None:
        probe.check()
    done = []
    for block in blocks(table):
        whole = whole_shard(layout, block)
        if whole is not None:
            manifest = _commit(layout, whole, config_hash, stages, describe)
            done.append(
                {
                    "name": whole.name,
                    "rows_in": manifest.rows_in,
                    "quarantined": manifest.quarantined,
                    "rewriting_seconds": whole.rewriting_seconds,
                    "scoring_seconds": whole.scoring_seconds,
                }
            )
    return pa.Table.from_pylist(done, schema=DONE)


def _commit(
    layout: OutputLayout, block: Block, config_hash: str, stages: Sequence[str], describe: Describe
) -> Manifest:
    reasons: dict[str, int] = {}
    for row in block.rows:
        if isinstance(row, Quarantined):
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    seconds = (round(block.rewriting_seconds, 3), round(block.scoring_seconds, 3))
    manifest = commit_shard(
        layout,
        block.name,
        block.rows,
        lambda scored, quarantined: Manifest(
            shard=block.shard,
            rows_in=block.shard_rows,
            scored=scored,
            quarantined=quarantined,
            config_hash=config_hash,
            seconds=dict(zip(stages, seconds, strict=False)),
            stats={"quarantined": dict(sorted(reasons.items())), **describe(block.rows)},
            input=block.input,
        ),
    )
    journal.forget(layout.journal, block.name)
    shutil.rmtree(layout.parts / block.name, ignore_errors=True)
    return manifest


def whole_shard(layout: OutputLayout, part: Block) -> Block | None:
    """The block, where it is its whole shard; else the part is kept, and the last one missing gives the whole."""
    if len(part.rows) == part.shard_rows:
        return part
    folder = layout.parts / part.name
    sink = io.BytesIO()
    table = part.to_table()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    write_atomically(folder / f"{part.first}-{len(part.rows)}.arrow", sink.getvalue())
    try:
        tables = [pa.ipc.open_file(path.read_bytes()).read_all() for path in sorted(folder.glob("*.arrow"))]
    except FileNotFoundError:
        return None  # the writer of the last part has joined and removed them in this moment
    joined = blocks(pa.concat_tables(tables))
    if len(joined) == 1 and len(joined[0].rows) == part.shard_rows:
        return joined[0]
    return None
