"""What tests of ingest read: a small dataset with images missing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image as Pillow

from polite_flamingo.ingest.ingest import IngestConfig
from polite_flamingo.sources.records.source import SourceOptions

QUESTIONS = 7
MISSING = 2


@pytest.fixture
def raw(tmp_path: Path) -> SourceOptions:
    """A CLEVR-like dataset of seven questions, two of which have no image."""
    (tmp_path / "images").mkdir()
    for number in range(QUESTIONS - MISSING):
        buffer = io.BytesIO()
        Pillow.new("RGB", (9, 9), (number, 0, 0)).save(buffer, "PNG")
        (tmp_path / f"images/{number}.png").write_bytes(buffer.getvalue())
    questions = [
        {"question_index": n, "question": f"Is it {n}?", "answer": "yes", "image_filename": f"{n}.png", "split": "val"}
        for n in range(QUESTIONS)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    return SourceOptions(annotations=(tmp_path / "q.json",), images=tmp_path / "images")


def config(raw: SourceOptions, out: Path, **more: object) -> IngestConfig:
    return IngestConfig(source="clevr", options=raw, out=out, samples_per_shard=2, **more)  # type: ignore[arg-type]
