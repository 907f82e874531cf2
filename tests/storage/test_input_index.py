"""What finished shards were made of is read from an index, and from the manifests that it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from polite_flamingo.storage import input_index
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.input_index import extend_index, finished_tags, made_of
from polite_flamingo.storage.ledger import Manifest, OutputLayout, change_manifest, read_manifest
from polite_flamingo.storage.location import location


def input_of(number: int) -> InputFile:
    return InputFile(size=number, mtime_ns=10**18 + number, ctime_ns=1, sha256=f"{number:064x}", tag="e" * (number % 2))


def finish(layout: OutputLayout, *numbers: int) -> None:
    for number in numbers:
        found = input_of(number) if number else None  # an earlier version noted none
        manifest = Manifest(shard="s", rows_in=0, scored=0, quarantined=0, config_hash="h", input=found)
        assert layout.manifest(f"s{number}").create(manifest.to_json())


@pytest.fixture(params=["disk", "bucket"])
def layout(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputLayout:
    monkeypatch.setattr(input_index, "SMALLEST", 3)
    root = location(tmp_path) if request.param == "disk" else location(request.getfixturevalue("bucket"))
    return OutputLayout(root=root / "out")


def found(layout: OutputLayout) -> dict[str, InputFile | None]:
    pairs = list(made_of(layout, finished_tags(layout)))
    assert len(pairs) == len(dict(pairs)), "each shard once"
    return dict(pairs)


def test_a_piece_spares_reading_the_manifests(layout: OutputLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(layout, 0, 1, 2)
    expected = {"s0": None, "s1": input_of(1), "s2": input_of(2)}
    assert found(layout) == expected
    extend_index(layout)
    extend_index(layout)
    assert len(layout.index.names(".arrow")) == 1, "what is in the index is not added again"
    with monkeypatch.context() as patch:
        patch.setattr(input_index, "read_manifest", lambda place: pytest.fail(f"{place} was read"))
        assert found(layout) == expected
        some = {"s1": finished_tags(layout)["s1"]}
        assert dict(made_of(layout, some)) == {"s1": input_of(1)}


def test_a_damaged_piece_costs_reading_the_manifests(layout: OutputLayout) -> None:
    finish(layout, 0, 1, 2)
    extend_index(layout)
    expected = found(layout)
    [name] = layout.index.names(".arrow")
    piece = (layout.index / f"{name}.arrow").read_bytes()
    (layout.index / "README").put("")
    for damaged in (b"", b"ARROW1junk", piece[:-9]):
        (layout.index / f"{name}.arrow").put(damaged)
        assert found(layout) == expected
    extend_index(layout)
    assert len(layout.index.names(".arrow")) == 2


def test_what_is_new_changed_or_gone_is_read_from_the_manifests(layout: OutputLayout) -> None:
    finish(layout, 0, 1, 2)
    extend_index(layout)
    finish(layout, 3)
    layout.manifest("s2").delete()

    def repaired(manifest: Manifest) -> Manifest:
        return Manifest(**{**vars(manifest), "input": input_of(9)})

    change_manifest(layout, "s1", repaired)
    expected = {"s0": None, "s1": input_of(9), "s3": input_of(3)}
    assert found(layout) == expected
    extend_index(layout)
    assert len(layout.index.names(".arrow")) == 1, "two shards are not worth a piece"
    finish(layout, 4)
    extend_index(layout)
    assert len(layout.index.names(".arrow")) == 2
    assert found(layout) == {**expected, "s4": input_of(4)}


def test_a_damaged_manifest_names_itself(layout: OutputLayout) -> None:
    finish(layout, 0, 1)
    layout.manifest("s1").put("{")
    with pytest.raises(ValueError, match=r"manifests/s1\.json is damaged"):
        found(layout)
    assert read_manifest(layout.manifest("s0")).input is None
