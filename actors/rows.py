"""Rows of a shard as an Arrow block of one fixed schema, and back.

The schema is fixed because an inferred one would give an all-empty column (a shard of text has no images) another type
than in other blocks, and they would no longer concatenate. Each row carries its shard's row count, so that the writer
notices if a block is only part of a shard.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, groupby

import pyarrow as pa

from polite_flamingo.sample import Image, Quarantined, Sample
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.shards import encode_record
from polite_flamingo.usage import Usage

Row = Sample | Quarantined

SECONDS = pa.map_(pa.string(), pa.float64())
"""Name of a pool -> seconds spent in it."""

USAGE = pa.map_(pa.string(), pa.int64())
"""What the models consumed (`usage.Usage`). A shard's is in its first row, and in the first of each part."""

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("shard_rows", pa.int64()),
        ("input", pa.string()),  # the shard as it was read (InputFile), as JSON; null if unknown
        ("key", pa.string()),
        ("record", pa.large_string()),  # KEY.json; null for a quarantined row
        ("images", pa.list_(pa.large_binary())),  # 32-bit offsets end at 2 GiB per block
        ("image_names", pa.list_(pa.string())),
        ("error", pa.large_string()),  # the Quarantined record; null for a good row
        ("seconds", SECONDS),
        ("usage", USAGE),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of one shard, or of a part of it, in order.

    Attributes:
        name: the shard's name.
        shard: the shard's path.
        first: index of the first row in the shard.
        shard_rows: number of rows in the whole shard.
        rows: the rows of this block.
        input: the shard as it was read.
        seconds: name of a pool -> seconds that these rows have spent in it.
        usage: what the models consumed for these rows.
    """

    name: str
    shard: str
    first: int
    shard_rows: int
    rows: Sequence[Row]
    input: InputFile | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)

    def to_table(self) -> pa.Table:
        """Convert to an Arrow block; only the record of a quarantined row is kept."""
        count = len(self.rows)
        good = [row if isinstance(row, Sample) else None for row in self.rows]
        columns = {
            "name": [self.name] * count,
            "shard": [self.shard] * count,
            "index": list(range(self.first, self.first + count)),
            "shard_rows": [self.shard_rows] * count,
            "input": [json.dumps(asdict(self.input)) if self.input else None] * count,
            "key": [row.key.encode("utf-8", "replace").decode() for row in self.rows],
            "record": [None if row is None else encode_record(row).decode() for row in good],
            "images": [[] if row is None else [image.data for image in row.images] for row in good],
            "image_names": [[] if row is None else [image.extension for image in row.images] for row in good],
            "error": [row.to_json() if isinstance(row, Quarantined) else None for row in self.rows],
            "seconds": [[(pool, seconds / count) for pool, seconds in self.seconds.items()]] * count,
            "usage": [list(self.usage.items()), *[[]] * (count - 1)] if count else [],
        }
        return pa.table(columns, schema=SCHEMA)


def blocks(table: pa.Table) -> list[Block]:
    """Return the blocks in a table: one, unless the scheduler joined or split what a shard's reader returned.

    A row that occurs twice (in parts of two attempts) counts once.
    """
    columns = table.to_pydict()
    backwards = reversed(range(table.num_rows))  # so that the first of equal rows is kept
    places = {(columns["name"][place], columns["index"][place]): place for place in backwards}
    found = []
    # rows that follow one another have the same distance between their index and their number in the sorted list
    for _, run in groupby(enumerate(sorted(places)), key=lambda one: (one[1][0], one[1][1] - one[0])):
        rows = [places[key] for _, key in run]
        name, shard, first, shard_rows, record = (
            columns[column][rows[0]] for column in ("name", "shard", "index", "shard_rows", "input")
        )
        seconds: defaultdict[str, float] = defaultdict(float)
        for pool, spent in chain.from_iterable(columns["seconds"][row] for row in rows):
            seconds[pool] += spent
        usage = sum((Usage(dict(columns["usage"][row])) for row in rows), Usage())
        found.append(
            Block(
                name=name, shard=shard, first=first, shard_rows=shard_rows,
                rows=[_row(columns, row) for row in rows],
                input=InputFile(**json.loads(record)) if record else None,
                seconds=dict(seconds), usage=dict(usage),
            )
        )  # fmt: skip
    return found


def _row(columns: dict[str, list], place: int) -> Row:
    if columns["error"][place] is not None:
        return Quarantined(**json.loads(columns["error"][place]))
    images = zip(columns["image_names"][place], columns["images"][place], strict=True)
    return Sample.from_record(
        json.loads(columns["record"][place]), tuple(Image(extension=name, data=data) for name, data in images)
    )
