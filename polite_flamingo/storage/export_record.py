"""Records with the same fields and types for every sample, for libraries that guess the columns.

`datasets` takes the columns of a WebDataset and their types from its first rows. It silently drops additional columns
of later rows, and rounds numbers if the first ones were whole. `meta`, `scores` and `provenance` differ from row to
row, so exports hold them as JSON strings, and so does `turn_notes` with what the turns of a conversation have beside
their texts. All other fields are strings or lists of the same fields. `shards.read_shard` reads both forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from polite_flamingo.conversations import polite_turns
from polite_flamingo.sample import Sample

FREE = ("meta", "scores", "provenance")
"""The fields with free content."""

_TEXTS = ("instruction", "response", "rewritten")


def uniform_record(sample: Sample) -> dict[str, Any]:
    """Return `Sample.to_record` with every field, the free ones as JSON strings.

    Raises:
        ValueError: a score is not finite.
    """
    texts = [(turn.instruction, turn.response, turn.rewritten or "") for turn in polite_turns(sample)]
    return {
        **sample.to_record(),
        "turns": [dict(zip(_TEXTS, turn, strict=True)) for turn in texts],
        "turn_notes": turn_notes(sample),
        "rewritten": sample.rewritten or "",
        **{name: free_text(sample, name) for name in FREE},
    }


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a uniform record in the form of `Sample.to_record`; fields of a wrong type stay as they are.

    Args:
        record: a uniform record whose free fields are parsed.
    """
    turns, notes = record.get("turns"), record.get("turn_notes", [])
    if not isinstance(turns, list) or not isinstance(notes, list) or not all(isinstance(turn, dict) for turn in turns):
        return {**record}
    if len(turns) < 2:
        one = [{name: value for name, value in turn.items() if name != "rewritten"} for turn in turns]
        return {**record, "turns": one}
    notes = notes if len(notes) == len(turns) and all(isinstance(note, dict) for note in notes) else [{}] * len(turns)
    several = [
        {**{name: value for name, value in turn.items() if name != "rewritten" or value}, **note}
        for turn, note in zip(turns, notes, strict=True)
    ]
    return {**record, "turns": several, "rewritten": record.get("rewritten") or None}


def free_text(sample: Sample, name: str) -> str:
    """Return one of the `FREE` fields as a JSON string. Raises `ValueError` if it has a number that is not finite."""
    return json.dumps(dict(getattr(sample, name)), ensure_ascii=False, allow_nan=False)


def turn_notes(sample: Sample) -> str:
    """Return what the turns of a conversation have beside their texts, as a JSON list: scores, whether they are only
    context; an empty list for one turn. Raises `ValueError` if a score is not finite.
    """
    notes = [{name: value for name, value in turn.to_record().items() if name not in _TEXTS} for turn in sample.turns]
    return json.dumps(notes if len(notes) > 1 else [], ensure_ascii=False, allow_nan=False)


def is_uniform(record: object) -> bool:
    """Whether a record has the form of `uniform_record`."""
    return isinstance(record, dict) and all(isinstance(record.get(name), str) for name in FREE)
