"""A raw dataset in a temporary folder: what the tests of the adapters are written with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES

SHARED = Path(os.environ.get("POLITE_FLAMINGO_SHARED", Path(__file__).parents[2].parent / "shared"))


class Raw:
    """Writes annotation files and images, then reads them through an adapter."""

    def __init__(self, root: Path):
        self.root = root
        self.images = root / "images"
        self.images.mkdir()

    def json(self, name: str, content: Any) -> Path:
        return self.text(name, json.dumps(content))

    def text(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def image(self, name: str, width: int = 100, height: int = 50, colour: str = "green") -> bytes:
        path = self.images / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "tif": "TIFF", "gif": "GIF"}[path.suffix[1:].lower()]
            Pillow.new("RGB", (width, height), colour).save(path, kind)
        return path.read_bytes()

    def read(
        self, source: str, *files: Path, split: str = "val", **extra: str
    ) -> tuple[list[Sample], list[Quarantined]]:
        options = SourceOptions(annotations=files, images=self.images, split=split, extra=extra)
        return both(SOURCES[source].read(options))


def both(rows: Any) -> tuple[list[Sample], list[Quarantined]]:
    """Samples (each valid, each fit for a shard) and quarantined rows (each fit for its file)."""
    samples, quarantined = [], []
    for row in rows:
        if isinstance(row, Sample):
            assert row.validate() is row
            json.dumps(row.to_record(), ensure_ascii=False, allow_nan=False).encode()
            samples.append(row)
        else:
            row.to_json().encode()
            assert row.detail and row.payload
            quarantined.append(row)
    return samples, quarantined
