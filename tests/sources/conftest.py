"""A raw dataset in a temporary folder, and the real excerpts where they are present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_dataset import SHARED, Raw, both

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources import SOURCES, SourceOptions


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


@pytest.fixture
def real() -> Any:
    """`real(source, images, *files, split=…)` on the excerpts of real files; skips where they are absent."""
    folder = SHARED / "samples"
    if not folder.is_dir():
        pytest.skip(f"the excerpts of real datasets are not at {folder} (POLITE_FLAMINGO_SHARED)")

    def read(source: str, images: str, *files: str, split: str = "") -> tuple[list[Sample], list[Quarantined]]:
        annotations = tuple(folder / file for file in files)
        return both(SOURCES[source].read(SourceOptions(annotations=annotations, images=folder / images, split=split)))

    return read
