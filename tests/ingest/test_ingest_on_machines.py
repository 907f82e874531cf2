"""Workers of an ingest on other machines: what one of them does not see is no missing row."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.ingest import parts
from polite_flamingo.ingest.ingest import Spread, ingest, ingest_all
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage import probe
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.location import location
from tests.support.ingesting import MISSING, QUESTIONS, config


def elsewhere(change: Callable[[], object]) -> Spread:
    """A worker on another machine, where `change` has happened."""

    def spread(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        change()
        yield from map(function, jobs)

    return spread


@pytest.mark.parametrize("empty", [False, True], ids=["not there", "an empty folder, where nothing is mounted"])
def test_images_that_a_worker_does_not_see_are_not_missing_rows(
    raw: SourceOptions, tmp_path: Path, empty: bool
) -> None:
    assert raw.images is not None

    def change() -> None:
        (tmp_path / "images").rename(tmp_path / "elsewhere")
        if empty:
            (tmp_path / "images").mkdir()

    with pytest.raises(OSError, match=r"clevr, part 0: .*/images/\d.png cannot be read on machine .*it does not exist"):
        ingest_all([config(raw, tmp_path / "out")], spread=elsewhere(change))
    with pytest.raises(ValueError, match=r"no \.tar shard"):
        shard_names(str(tmp_path / "out"))
    assert not (tmp_path / "out" / "quarantine").exists()
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    again = ingest(config(raw, tmp_path / "out"))
    assert (again.written, again.quarantined) == (QUESTIONS - MISSING, MISSING)


def test_a_mount_that_goes_away_while_a_part_is_built_leaves_no_part(
    raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = parts._rows_of_part

    def unmounted(*arguments: Any) -> Iterator[Any]:
        (tmp_path / "images").rename(tmp_path / "elsewhere")
        (tmp_path / "images").mkdir()
        yield from built(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "_rows_of_part", unmounted)
        with pytest.raises(OSError, match="it does not exist"):
            ingest(config(raw, tmp_path / "out"))
    assert not list((tmp_path / "out" / "ingest" / "clevr").glob("*.built"))
    (tmp_path / "images").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "images")

    opened = Path.open

    def stale(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.is_relative_to(tmp_path / "images"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            ingest(config(raw, tmp_path / "out"))
    assert ingest(config(raw, tmp_path / "out")).written == QUESTIONS - MISSING


def test_a_worker_that_writes_to_another_disk_is_noticed(
    raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PATIENCE", 0.0)
    work = tmp_path / "out" / "ingest" / "clevr"

    def change() -> None:
        work.rename(tmp_path / "of-the-driver")
        work.mkdir()

    with pytest.raises(OSError, match=rf"does not see in {work} what .* wrote there .*--out"):
        ingest_all([config(raw, tmp_path / "out")], spread=elsewhere(change))


def test_workers_get_relative_paths_as_absolute_ones(
    raw: SourceOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    near = SourceOptions(annotations=(Path("q.json"),), images=Path("images"))
    result = ingest_all([config(near, Path("out"))], spread=elsewhere(lambda: os.chdir("/")))[0]
    assert (result.written, result.quarantined) == (QUESTIONS - MISSING, MISSING)
    assert result.shards[0] == location(tmp_path / "out" / "clevr-00000.tar")
