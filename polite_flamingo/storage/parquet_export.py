"""Export kept samples as OUT/parquet/NAME.parquet, with their images, for `load_dataset(OUT)` and dataset hubs.

There is one row per sample, always with the same columns; of a conversation, `instruction`, `response` and `rewritten`
are those of the first turn, `messages` has all, and `turn_notes` each turn's scores. Texts and images are the bytes of
the shards; the schema tells Hugging Face's `datasets` which column has the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from polite_flamingo.conversations import polite_text, polite_turns
from polite_flamingo.images.digest import file_name
from polite_flamingo.sample import Sample, unmarked
from polite_flamingo.storage.export_record import FREE, free_text, turn_notes
from polite_flamingo.storage.location import Location

MAX_GROUP_ROWS = 100
MAX_GROUP_BYTES = 32 << 20
"""Most rows, and bytes of images, per row group: readers and viewers load a whole group."""

_TEXTS = ("key", "dataset", "task", "instruction", "response", "rewritten")
_NUMBERS = ("reward", "reward_raw", "rouge_l", "sts")
TEXT: dict[str, Any] = {"dtype": "string", "_type": "Value"}
NUMBER: dict[str, Any] = {"dtype": "float64", "_type": "Value"}
IMAGE: dict[str, Any] = {"_type": "Image"}
IMAGES: dict[str, Any] = {"feature": IMAGE, "_type": "Sequence"}
"""Columns as `datasets` describes them; a list stands for a list of its one element."""


def schema_of(features: Mapping[str, Any]) -> pyarrow.Schema:
    """Return the Arrow schema of columns, which also tells `datasets` what they are."""
    fields = [(name, _kind(feature)) for name, feature in features.items()]
    return pyarrow.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _kind(feature: Any) -> pyarrow.DataType:
    if isinstance(feature, list):
        return pyarrow.list_(pyarrow.struct([(name, _kind(kind)) for name, kind in feature[0].items()]))
    if feature is IMAGES:
        return pyarrow.list_(_kind(IMAGE))
    if feature is IMAGE:
        return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.string() if feature is TEXT else pyarrow.float64()


SCHEMA = schema_of(
    {
        **dict.fromkeys(_TEXTS, TEXT),
        "messages": [{"role": TEXT, "content": TEXT}],
        "images": IMAGES,
        **dict.fromkeys(_NUMBERS, NUMBER),
        **dict.fromkeys((*FREE, "turn_notes"), TEXT),
    }
)
"""`response` is the raw annotation, `rewritten` the polite one; numbers that a task does not have are null."""


def write_parquet(samples: Sequence[Sample], where: Location) -> None:
    """Write the kept samples of one shard, in order, atomically; without samples there is no file."""
    if not samples:
        where.delete()
        return
    with where.writer() as file, parquet_writer(file, SCHEMA) as writer:
        for group in groups(samples):
            writer.write_table(pyarrow.Table.from_pylist([row_of(sample) for sample in group], SCHEMA))


def parquet_writer(file: BinaryIO, schema: pyarrow.Schema) -> pyarrow.parquet.ParquetWriter:
    """Open a Parquet file for tables, each of which becomes a row group."""
    few = [name for name in ("dataset", "task") if name in schema.names]
    return pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=few, write_page_index=True)


def groups(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Divide samples into row groups, in order."""
    group: list[Sample] = []
    held = 0
    for sample in samples:
        size = sum(len(image.data) for image in sample.images)
        if group and (len(group) == MAX_GROUP_ROWS or held + size > MAX_GROUP_BYTES):
            yield group
            group, held = [], 0
        group.append(sample)
        held += size
    yield group


def images_of(sample: Sample) -> list[dict[str, Any]]:
    """Return the images as values of an image column."""
    return [{"bytes": image.data, "path": file_name(image)} for image in sample.images]


def row_of(sample: Sample) -> dict[str, Any]:
    """Return the row of a kept sample, by columns."""
    turns = polite_turns(sample)
    texts = (sample.key, sample.dataset, sample.task, sample.instruction, sample.response, turns[0].rewritten)
    return {
        **dict(zip(_TEXTS, texts, strict=True)),
        "messages": [
            {"role": role, "content": text}
            for turn in turns
            for role, text in (("user", turn.instruction), ("assistant", unmarked(polite_text(turn))))
        ],
        "images": images_of(sample),
        **{name: sample.scores.get(name) for name in _NUMBERS},
        **{name: free_text(sample, name) for name in FREE},
        "turn_notes": turn_notes(sample),
    }
