"""Reading tables in tests: a file in, samples and reasons out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both

ROWS = [
    {"path": "a.png", "question": "What colour\nis it?", "answer": "green, mostly", "uid": "x1"},
    {"path": "sub/b.jpg", "question": 'Is it "big"?', "answer": "no", "uid": "x2"},
]
VQA = {"image": "path", "instruction": "question", "response": "answer"}
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(
    raw: Raw, *files: Path, columns: dict[str, str] | None = None, split: str = "", images: bool = True, **extra: str
) -> tuple[list[Sample], list[Quarantined]]:
    """Through both steps, the records spooled as JSON between them, as the Ray job does."""
    options = SourceOptions(
        annotations=files, images=raw.images if images else None, split=split, columns=columns or {}, extra=extra
    )
    source = SOURCES["table"]
    context = source.context(options)
    rows = []
    for row in keyed_records(source, options):
        if not isinstance(row, Quarantined):
            assert json.loads(json.dumps(row.to_json(), allow_nan=False)) == row.to_json()
            row = make_sample(source, row, context)  # type: ignore[assignment]
        rows.append(row)
    return both(rows)


def said(samples: list[Sample]) -> list[tuple[str, str, str, str]]:
    return [(sample.key, sample.task, sample.instruction, sample.response) for sample in samples]


def reasons(quarantined: list[Quarantined]) -> list[tuple[str, str]]:
    return [(row.payload, row.reason) for row in quarantined]


def as_delimited(delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return buffer.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


def notes_of(raw: Raw, *files: Path, columns: dict[str, str] | None = None, images: bool = False) -> dict[str, int]:
    options = SourceOptions(annotations=files, images=raw.images if images else None, columns=columns or {})
    scratch = Scratch()
    list(keyed_records(SOURCES["table"], options, scratch))
    return scratch.notes
