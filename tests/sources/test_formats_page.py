"""docs/formats.md is up to date, and what it says about each source is what that source does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from polite_flamingo.sources.formats_page import as_markdown, files_of, honours_meanings, pictures_of
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Source, SourceOptions
from polite_flamingo.sources.registry import SOURCES

ALL = list(SOURCES.values())


def test_docs_formats_is_what_the_code_writes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert page == as_markdown(ALL), "run: python -m polite_flamingo.sources.formats_page > docs/formats.md"


@pytest.mark.parametrize("source", ALL, ids=lambda source: source.name)
def test_sources_of_any_kind_of_file_read_parquet_and_the_others_refuse_it(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    row = {"instruction": "What?", "output": "red", "image": "a.jpg", "conversations": "none"}
    rated: dict[str, Any] = {"prompt": "What?", "response": "red", "helpfulness": 4}
    row = rated if source.name == "helpsteer" else row
    pyarrow.parquet.write_table(pyarrow.table({name: [value] for name, value in row.items()}), path)
    options = SourceOptions(annotations=(path,), images=None if source.images == "none" else tmp_path)
    try:
        found = [row for _, _, row in source.records(options, Scratch()) if "red" in str(row)]
    except SourceError:
        found = []
    assert (files_of(source) == "records") == (len(found) == 1)


def test_the_sources_of_own_data_take_any_picture_and_go_by_the_fields() -> None:
    assert [pictures_of(SOURCES[name]) for name in ("llava", "table", "pf1m")] == ["anywhere"] * 3
    assert pictures_of(SOURCES["vqa_v2"]) == "folder" and pictures_of(SOURCES["sharegpt"]) == "none"
    going = {source.name for source in ALL if honours_meanings(source)}
    assert going >= {"llava", "sharegpt", "webdataset", "oasst1", "pf1m"} and "vqa_v2" not in going
