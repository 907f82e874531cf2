"""A folder of samples that a job wrote is read as its manifests say."""

from __future__ import annotations

from pathlib import Path

from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from tests.support.build_world import text_row


def manifest(scored: int, quarantined: int) -> Manifest:
    return Manifest(shard="in.tar", rows_in=scored, scored=scored, quarantined=quarantined, config_hash="h")


def test_what_no_manifest_names_is_not_read(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path, samples="pairs")
    published = {name: commit_shard(layout, name, [text_row(0, 0)], manifest) for name in ("a", "b", "c.deadbeef")}
    folder = tmp_path / "pairs"
    for name in ("a.0123abcd.tar", "late.0123abcd.tar"):  # of an attempt that lost, and of one that is not finished
        (folder / name).write_bytes(b"")
    lines: list[str] = []
    found = shard_names(str(folder), say=lines.append)
    assert {name: place.name for name, place in found.items()} == {
        name: Path(made.files["samples"].path).name for name, made in published.items()
    }
    assert lines == ["passed over, of unfinished or repeated shards of a job: 2 tars that no manifest names"]


def test_an_older_output_is_read_under_its_names(tmp_path: Path) -> None:
    layout = OutputLayout(root=tmp_path)
    (tmp_path / "scored").mkdir()
    for name in ("a", "x.deadbeef"):
        (tmp_path / "scored" / f"{name}.tar").write_bytes(b"")
        layout.manifest(name).create(manifest(1, 0).to_json())
    (tmp_path / "scored" / "a.0123abcd.tar").write_bytes(b"")
    found = shard_names(str(tmp_path / "scored"))
    assert {name: place.name for name, place in found.items()} == {"a": "a.tar", "x.deadbeef": "x.deadbeef.tar"}


def test_a_folder_that_only_has_the_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "a.0123abcd.tar").write_bytes(b"")
    assert list(shard_names(str(tmp_path / "scored"))) == ["a.0123abcd"]
