"""One record through a source: its row and its notes; conversations to make records of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw


def read_one(raw: Raw, record: Any, source: str = "llava") -> tuple[Any, dict[str, int]]:
    """Return the row of one record, and the notes."""
    file = record if isinstance(record, Path) else raw.json("r.json", [record])
    options = SourceOptions(annotations=(file,), images=raw.images)
    scratch, found = Scratch(), SOURCES[source]
    rows = [
        row if isinstance(row, Quarantined) else make_sample(found, row, found.context(options))
        for row in keyed_records(found, options, scratch)
    ]
    assert len(rows) == 1
    return rows[0], scratch.notes


def chat(*said: Any, **more: Any) -> dict[str, Any]:
    """Make messages of the user and the assistant in turn, each a text or (a text, fields)."""
    messages = []
    for number, message in enumerate(said):
        text, fields = message if isinstance(message, tuple) else (message, {})
        messages.append({"role": "assistant" if number % 2 else "user", "content": text, **fields})
    return {"messages": messages, **more}


def turns_of(row: Any) -> list[tuple[str, str]]:
    assert isinstance(row, Sample), row
    return [(turn.instruction, turn.response) for turn in row.turns]


def bytes_of(raw: Raw, letter: str) -> bytes:
    return (raw.images / f"{letter}.jpg").read_bytes()
