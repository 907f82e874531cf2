"""A sample's record with the same fields of the same types whatever the sample: what libraries guess columns from.

`datasets` takes the columns of a WebDataset, and their types, from its first rows. What later rows have more is dropped
without a word, and a number becomes whole where the first ones were. `meta`, `scores` and `provenance` differ from row
to row, so an export holds them as JSON text; all else is text or lists of texts. `shards.read_shard` reads either form.
"""

from __future__ import annotations

import json
from typing import Any

from polite_flamingo.sample import Sample

FREE = ("meta", "scores", "provenance")
"""The fields whose content is free."""


def uniform_record(sample: Sample) -> dict[str, Any]:
    """As `Sample.to_record`, every field there, the free ones as JSON text.

    Raises:
        ValueError: a score is not finite.
    """
    return {
        **sample.to_record(),
        "rewritten": sample.rewritten or "",
        **{name: free_text(sample, name) for name in FREE},
    }


def free_text(sample: Sample, name: str) -> str:
    """One of the `FREE` fields as JSON text. Raises `ValueError` where a number in it is not finite."""
    return json.dumps(dict(getattr(sample, name)), ensure_ascii=False, allow_nan=False)


def is_uniform(record: object) -> bool:
    """Whether a record is of that form."""
    return isinstance(record, dict) and all(isinstance(record.get(name), str) for name in FREE)
