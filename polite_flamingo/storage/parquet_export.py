"""Export kept samples as OUT/parquet/NAME.parquet, with their images, for `load_dataset(OUT)` and dataset hubs.

There is one row per sample, always with the same columns. Texts and images are the bytes of the shards; the schema
tells Hugging Face's `datasets` which column has the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from polite_flamingo.images.digest import file_name
from polite_flamingo.sample import Sample
from polite_flamingo.storage.export_record import FREE, free_text
from polite_flamingo.storage.location import Location

MAX_GROUP_ROWS = 100
MAX_GROUP_BYTES = 32 << 20
"""Most rows, and bytes of images, per row group: readers and viewers load a whole group."""

_TEXTS = ("key", "dataset", "task", "instruction", "response", "rewritten")
_NUMBERS = ("reward", "reward_raw", "rouge_l", "sts")
_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def _schema() -> pyarrow.Schema:
    features: dict[str, Any] = {
        **{name: {"dtype": "string", "_type": "Value"} for name in _TEXTS},
        "images": {"feature": {"_type": "Image"}, "_type": "Sequence"},
        **{name: {"dtype": "float64", "_type": "Value"} for name in _NUMBERS},
        **{name: {"dtype": "string", "_type": "Value"} for name in FREE},
    }
    kinds = {"string": pyarrow.string(), "float64": pyarrow.float64(), None: pyarrow.list_(_IMAGE)}
    fields = [(name, kinds[feature.get("dtype")]) for name, feature in features.items()]
    return pyarrow.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _schema()
"""`response` is the raw annotation, `rewritten` the polite one; numbers that a task does not have are null."""


def write_parquet(samples: Sequence[Sample], where: Location) -> None:
    """Write the kept samples of one shard, in order, atomically; without samples there is no file."""
    if not samples:
        where.delete()
        return
    with (
        where.writer() as file,
        pyarrow.parquet.ParquetWriter(
            file, SCHEMA, use_dictionary=["dataset", "task"], write_page_index=True
        ) as writer,
    ):
        for group in _groups(samples):
            writer.write_table(pyarrow.Table.from_pylist([_row(sample) for sample in group], SCHEMA))


def _groups(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
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


def _row(sample: Sample) -> dict[str, Any]:
    images = [{"bytes": image.data, "path": file_name(image)} for image in sample.images]
    texts = (sample.key, sample.dataset, sample.task, sample.instruction, sample.response, sample.rewritten)
    return {
        **dict(zip(_TEXTS, texts, strict=True)),
        "images": images,
        **{name: sample.scores.get(name) for name in _NUMBERS},
        **{name: free_text(sample, name) for name in FREE},
    }
