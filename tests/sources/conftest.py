"""A raw dataset in a temporary folder, and the real excerpts where they are present."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import SHARED, Raw, both


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


@pytest.fixture
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`real(source, images, *files, …)` on the excerpts of real files; skips where they are absent.

    `images` is a folder of the excerpts. Where it holds none of the images, `pictures` names some (or maps names to
    widths and heights) that are made in a folder of their own and used instead.
    """
    folder = SHARED / "samples"
    if not folder.is_dir():
        pytest.skip(f"the excerpts of real datasets are not at {folder} (POLITE_FLAMINGO_SHARED)")

    def read(
        source: str,
        images: str,
        *files: str,
        split: str = "",
        extra: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        pictures: Iterable[str] | Mapping[str, tuple[int, int]] = (),
    ) -> tuple[list[Sample], list[Quarantined]]:
        made = Raw(tmp_path_factory.mktemp("real"))
        for name in pictures:
            made.image(name, *(pictures[name] if isinstance(pictures, Mapping) else ()))
        options = SourceOptions(
            annotations=tuple(folder / file for file in files),
            images=made.images if pictures else folder / images,
            split=split,
            columns=columns or {},
            extra=extra or {},
        )
        return both(SOURCES[source].read(options))

    return read
