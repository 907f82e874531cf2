"""Rows of a shard as an Arrow block of one fixed schema, and back.

A fixed schema matters: with inferred ones, an all-empty column of one block (a shard of text has no images) gets
another type than its neighbours and the blocks no longer concatenate. Each row carries its shard's row count, so that
whoever writes the shard notices when a block is only a part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from polite_flamingo.sample import Image, Quarantined, Sample
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.shards import encode_record

Row = Sample | Quarantined

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("shard_rows", pa.int64()),
        ("input", pa.string()),  # the shard as it was read (InputFile), as JSON; null where nobody asks
        ("key", pa.string()),
        ("record", pa.large_string()),  # KEY.json; null for a quarantined row
        ("images", pa.list_(pa.large_binary())),  # 32-bit offsets end at 2 GiB a block
        ("image_names", pa.list_(pa.string())),
        ("error", pa.large_string()),  # the Quarantined record; null for a good row
        ("rewriting_seconds", pa.float64()),
        ("scoring_seconds", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of one shard, or of a part of it, in order.

    Attributes:
        name: of the shard.
        shard: its path.
        first: index in the shard of the first row.
        shard_rows: of the whole shard.
        rows: of this block.
        input: the shard as it was read.
        rewriting_seconds: spent on these rows.
        scoring_seconds: spent on these rows.
    """

    name: str
    shard: str
    first: int
    shard_rows: int
    rows: Sequence[Row]
    input: InputFile | None = None
    rewriting_seconds: float = 0.0
    scoring_seconds: float = 0.0

    def to_table(self) -> pa.Table:
        """As an Arrow block; of a quarantined row only the record travels on."""
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
            "rewriting_seconds": [self.rewriting_seconds / count] * count,
            "scoring_seconds": [self.scoring_seconds / count] * count,
        }
        return pa.table(columns, schema=SCHEMA)


def blocks(table: pa.Table) -> list[Block]:
    """The blocks in a table: one, unless the scheduler joined or split what a shard's reader returned.

    A row that is there twice (parts of two attempts) counts once.
    """
    columns = table.to_pydict()
    places = sorted(range(table.num_rows), key=lambda i: (columns["name"][i], columns["index"][i]))
    runs: list[list[int]] = []
    for place in places:
        before = runs[-1][-1] if runs else None
        same_shard = before is not None and columns["name"][before] == columns["name"][place]
        if same_shard and columns["index"][before] == columns["index"][place]:
            continue
        if same_shard and columns["index"][before] + 1 == columns["index"][place]:
            runs[-1].append(place)
        else:
            runs.append([place])
    return [
        Block(
            name=columns["name"][run[0]],
            shard=columns["shard"][run[0]],
            first=columns["index"][run[0]],
            shard_rows=columns["shard_rows"][run[0]],
            rows=[_row(columns, place) for place in run],
            input=_input(columns["input"][run[0]]),
            rewriting_seconds=sum(columns["rewriting_seconds"][place] for place in run),
            scoring_seconds=sum(columns["scoring_seconds"][place] for place in run),
        )
        for run in runs
    ]


def _input(record: str | None) -> InputFile | None:
    return InputFile(**json.loads(record)) if record else None


def _row(columns: dict[str, list], place: int) -> Row:
    if columns["error"][place] is not None:
        return Quarantined(**json.loads(columns["error"][place]))
    images = zip(columns["image_names"][place], columns["images"][place], strict=True)
    return Sample.from_record(
        json.loads(columns["record"][place]), tuple(Image(extension=name, data=data) for name, data in images)
    )
