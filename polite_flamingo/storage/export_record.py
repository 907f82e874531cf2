"""Records with the same fields and types for every sample, for libraries that guess the columns.

`datasets` takes the columns of a WebDataset and their types from its first rows. It silently drops additional columns
of later rows, and rounds numbers if the first ones were whole. `meta`, `scores` and `provenance` differ from row to
row, so exports hold them as JSON strings; all other fields are strings or lists of strings. `shards.read_shard` reads
both forms.
"""

from __future__ import annotations

import json
from typing import Any

from polite_flamingo.sample import Sample

FREE = ("meta", "scores", "provenance")
"""The fields with free content."""


def uniform_record(sample: Sample) -> dict[str, Any]:
    """Return `Sample.to_record` with every field, the free ones as JSON strings.

    Raises:
        ValueError: a score is not finite.
    """
    return {
        **sample.to_record(),
        "rewritten": sample.rewritten or "",
        **{name: free_text(sample, name) for name in FREE},
    }


def free_text(sample: Sample, name: str) -> str:
    """Return one of the `FREE` fields as a JSON string. Raises `ValueError` if it has a number that is not finite."""
    return json.dumps(dict(getattr(sample, name)), ensure_ascii=False, allow_nan=False)


def is_uniform(record: object) -> bool:
    """Whether a record has the form of `uniform_record`."""
    return isinstance(record, dict) and all(isinstance(record.get(name), str) for name in FREE)
