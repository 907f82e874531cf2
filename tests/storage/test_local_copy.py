"""Copies on this machine: made once, made again when the object has changed, and only in a folder of one's own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from polite_flamingo.storage.local_copy import local_copy
from polite_flamingo.storage.location import location


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_is_here_stays_where_it_is(tmp_path: Path, scratch: Path) -> None:
    assert local_copy(location(tmp_path / "a")) == tmp_path / "a"
    assert not list(scratch.iterdir())


def test_a_folder_of_a_bucket_is_copied_once_and_again_when_it_has_changed(bucket: str) -> None:
    model = location(bucket) / "model"
    (model / "config.json").put("1")
    (model / "deep" / "weights").put("w" * 100)
    copy = local_copy(model)
    assert copy.name == "model" and (copy / "deep" / "weights").read_text() == "w" * 100
    (copy / "mark").touch()
    assert local_copy(model) == copy and (copy / "mark").exists()
    (model / "config.json").put("2")
    changed = local_copy(model)
    assert changed != copy and (changed / "config.json").read_text() == "2" and not (changed / "mark").exists()
    assert local_copy(model / "config.json").read_text() == "2"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        local_copy(location(bucket) / "absent")


@pytest.mark.parametrize("kind", ["link", "writable by all"])
def test_models_are_read_from_no_folder_that_others_may_write(
    kind: str, bucket: str, tmp_path: Path, scratch: Path
) -> None:
    home = scratch / f"polite-flamingo-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    else:
        home.mkdir()
        home.chmod(0o777)
    (location(bucket) / "a").put("1")
    with pytest.raises(OSError, match="only you can write to: set TMPDIR"):
        local_copy(location(bucket) / "a")
