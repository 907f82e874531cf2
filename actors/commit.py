"""The last step of a block: put its shard into the output folder, or keep the part until the other parts arrive.

Normally a block is a whole shard and is written at once. If the scheduler has split it, its parts wait as files under
OUT/parts, and whichever writer finds the set complete joins them. Two writers may find that at the same time; then one
of them wins (`ledger.py`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from actors.rows import SCHEMA, SECONDS, Block, Row, blocks
from polite_flamingo.endpoints import answer_store
from polite_flamingo.faults import journal
from polite_flamingo.near_duplicates.signatures import sign
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.probe import Probe

FINISHED = pa.schema([("name", pa.string()), ("rows_in", pa.int64()), ("seconds", SECONDS)])
"""One row per shard that is now on disk; `seconds` has an entry for each pool that the shard went through."""

Describe = Callable[[Sequence[Row]], Mapping[str, Any]]


def commit_blocks(
    table: pa.Table,
    layout: OutputLayout,
    config_hash: str,
    describe: Describe | None = None,
    probe: Probe | None = None,
    *,
    near: bool = False,
    answers: bool = False,
) -> pa.Table:
    """Commit complete shards to the ledger; return one row (of schema `FINISHED`) per shard.

    Args:
        table: rows of one or more shards.
        layout: the output folder.
        config_hash: the run's config hash.
        describe: computes figures from a shard's rows for its manifest, besides the quarantine reasons.
        probe: a file in the output folder that this machine must see.
        near: whether to write signatures, by which a selection finds near-duplicates.
        answers: whether an endpoint's answers were kept for the shards; they are deleted once a shard is committed.

    Raises:
        PathUnavailable: this machine does not see `probe`.
    """
    if probe is not None:
        probe.check()

    def write(block: Block) -> None:
        _commit(layout, block, config_hash, describe, near)
        if answers:
            answer_store.forget(layout.answers, block.name)

    return write_whole_shards(table, layout, write)


def write_whole_shards(table: pa.Table, layout: OutputLayout, write: Callable[[Block], object]) -> pa.Table:
    """Call `write` for each shard whose rows have all arrived; return one row (of schema `FINISHED`) per shard."""
    finished = []
    for block in blocks(table):
        whole = _whole_shard(layout, block)
        if whole is not None:
            write(whole)
            journal.forget(layout.journal, whole.name)
            if whole is not block:
                (layout.parts / whole.name).delete_tree()
            finished.append({"name": whole.name, "rows_in": whole.shard_rows, "seconds": list(whole.seconds.items())})
    return pa.Table.from_pylist(finished, schema=FINISHED)


def _commit(layout: OutputLayout, block: Block, config_hash: str, describe: Describe | None, near: bool) -> None:
    reasons = Counter(row.reason for row in block.rows if isinstance(row, Quarantined))
    stats = {"quarantined": dict(sorted(reasons.items())), **(describe(block.rows) if describe else {})}
    commit_shard(
        layout,
        block.name,
        block.rows,
        lambda scored, quarantined: Manifest(
            shard=block.shard,
            rows_in=block.shard_rows,
            scored=scored,
            quarantined=quarantined,
            config_hash=config_hash,
            seconds={pool: round(seconds, 3) for pool, seconds in block.seconds.items()},
            usage=block.usage,
            stats=stats,
            input=block.input,
        ),
        near=_signatures(layout, block) if near else b"",
    )


def _signatures(layout: OutputLayout, block: Block) -> bytes:
    """Return the signatures of a shard's samples. Noted in the journal: a picture that kills two workers is not read.

    Most models have decoded it before, but not all look at pictures.
    """
    samples = [row for row in block.rows if isinstance(row, Sample)]
    note = journal.Journal(layout.journal, "signing").open(block.name, block.first)
    with note.busy(0, range(len(samples)), alone=False):
        return sign(samples, read_pictures=not note.suspicious(0)).encode()


def _whole_shard(layout: OutputLayout, part: Block) -> Block | None:
    """Return the block if it is its whole shard; else keep the part, and return the whole once no part is missing."""
    if len(part.rows) == part.shard_rows:
        return part
    folder = layout.parts / part.name
    sink = io.BytesIO()
    table = part.to_table()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    (folder / f"{part.first}-{len(part.rows)}.arrow").put(sink.getvalue())
    try:
        tables = [pa.ipc.open_file((folder / name).read_bytes()).read_all() for name in sorted(folder.names())]
    except FileNotFoundError:
        return None  # the writer of the last part has just joined and removed them
    joined = blocks(pa.concat_tables(tables))
    if len(joined) == 1 and len(joined[0].rows) == part.shard_rows:
        return joined[0]
    return None
