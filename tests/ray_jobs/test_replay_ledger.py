"""Quarantined rows come back without being lost or counted twice, whenever the replay is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from actors.commit import commit_blocks
from actors.rows import Block, Row
from polite_flamingo.faults.guard import quarantine
from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine, read_scored
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard
from ray_jobs.replay_ledger import ReadableRows, _take_from_quarantine, declare, readable_rows, settle
from tests.support.build_world import outcome, text_row, write_world


def process(out: Path | Location, name: str, shard: Path | Location, failing: tuple[str, ...] = ()) -> None:
    """A build of one shard in which rows with these words fail."""

    def outcome_of(row: Row, index: int) -> Row:
        if isinstance(row, Sample) and any(word in row.response for word in failing):
            return quarantine(row, str(shard), index, BadSample("rewriting_failed", "as the test wants"))
        return row

    rows = [outcome_of(row, index) for index, row in enumerate(read_shard(shard))]
    found = InputFile.at(shard)
    block = Block(name=name, shard=str(shard), first=0, shard_rows=len(rows), rows=rows, input=found)
    commit_blocks(block.to_table(), OutputLayout(root=out), "hash")


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, OutputLayout]:
    """A shard of ten rows of which two failed, and its output folder."""
    source = write_world(tmp_path / "in", shards=1, special={(0, 3): "raise", (0, 7): "raise"})
    process(tmp_path / "out", "s0", source / "s0.tar", failing=("raise",))
    return source / "s0.tar", OutputLayout(root=tmp_path / "out")


def only(found: list[ReadableRows]) -> ReadableRows:
    assert len(found) == 1
    return found[0]


def test_failed_rows_move_to_an_extra_shard(world: tuple[Path, OutputLayout]) -> None:
    shard, layout = world
    assert outcome(layout.root.path) == {"scored": 8, "rewriting_failed": 2}
    again = only(list(readable_rows(layout, ("rewriting_failed",))))
    assert (again.taken, [s.provenance["index"] for s in again.samples]) == ((3, 7), [3, 7])
    name, tar = declare(layout, again)
    process(layout.root.path, name, tar)
    settle(layout)
    settle(layout)  # may be repeated
    assert outcome(layout.root.path) == {"scored": 10}
    assert layout.finished() == ["s0", "s0~replay-1"]
    assert read_manifest(layout.manifest("s0")).rows_in == 8
    assert [s.provenance["shard"] for s in read_scored(layout, name)] == [str(shard)] * 2
    assert layout.replay.names() == []
    assert list(readable_rows(layout, ())) == []


def test_a_row_that_fails_again_can_be_tried_again(world: tuple[Path, OutputLayout]) -> None:
    _, layout = world
    for attempt in range(1, 3):
        name, tar = declare(layout, next(readable_rows(layout, ())))
        process(layout.root.path, name, tar, failing=("raise 7",))
        settle(layout)
        assert outcome(layout.root.path) == {"scored": 9, "rewriting_failed": 1}, attempt
    name, tar = declare(layout, next(readable_rows(layout, ())))
    process(layout.root.path, name, tar)
    settle(layout)
    assert outcome(layout.root.path) == {"scored": 10}


def test_a_replay_that_was_killed_before_its_commit_never_happened(world: tuple[Path, OutputLayout]) -> None:
    _, layout = world
    declare(layout, next(readable_rows(layout, ())))
    settle(layout)
    assert outcome(layout.root.path) == {"scored": 8, "rewriting_failed": 2}
    assert layout.replay.names() == []


def test_a_record_of_a_replay_that_cannot_be_read_is_named_if_it_counts(world: tuple[Path, OutputLayout]) -> None:
    _, layout = world
    name, tar = declare(layout, next(readable_rows(layout, ())))
    process(layout.root.path, name, tar)
    (layout.replay / f"{name}.json").put("{")
    with pytest.raises(ValueError, match=r"s0~replay-1\.json is damaged .*restore it"):
        settle(layout)
    layout.manifest(name).delete()
    settle(layout)
    assert outcome(layout.root.path) == {"scored": 8, "rewriting_failed": 2}


def test_a_replay_that_was_killed_after_its_commit_is_finished_later(
    world: tuple[Path, OutputLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, layout = world
    name, tar = declare(layout, next(readable_rows(layout, ())))
    process(layout.root.path, name, tar)
    with monkeypatch.context() as patch:  # killed between the two files of the old shard
        patch.setattr("ray_jobs.replay_ledger.change_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            settle(layout)
    settle(layout)
    assert outcome(layout.root.path) == {"scored": 10}


def test_a_job_that_slept_while_another_settled_a_replay_brings_nothing_back(
    world: tuple[Path, OutputLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, layout = world

    def sleep_after_reading(layout: OutputLayout, name: str) -> list[Quarantined]:
        rows = read_quarantine(layout, name)
        monkeypatch.undo()
        _take_from_quarantine(layout, name, {7}, None)  # the other job
        return rows

    monkeypatch.setattr("ray_jobs.replay_ledger.read_quarantine", sleep_after_reading)
    with pytest.raises(ValueError, match="another job has changed"):
        _take_from_quarantine(layout, "s0", {3}, None)
    assert [row.index for row in read_quarantine(layout, "s0")] == [3]


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_mended_file_gives_the_rows_it_lost(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = location(tmp_path if where == "disk" else request.getfixturevalue("bucket"))
    shard, layout = root / "in" / "s0.tar", OutputLayout(root=root / "out")
    whole = (write_world(tmp_path / "whole", shards=1) / "s0.tar").read_bytes()
    shard.put(whole[:4500])
    process(layout.root, "s0", shard)
    assert outcome(layout.root) == Counter(scored=4, truncated_tar=1)
    assert list(readable_rows(layout, ())) == [], "it is still damaged"
    shard.put(whole)
    assert not knows(layout, shard)
    assert list(readable_rows(layout, ("bad_json",))) == []
    name, tar = declare(layout, only(list(readable_rows(layout, ("truncated_tar",)))))
    process(layout.root, name, tar)
    settle(layout)
    assert outcome(layout.root) == {"scored": 10}
    assert read_quarantine(layout, "s0") == []
    assert knows(layout, shard), "else the next build would take its rows for those of another dataset"
    assert {s.key for n in layout.finished() for s in read_scored(layout, n)} == {text_row(0, n).key for n in range(10)}


def knows(layout: OutputLayout, shard: Path | Location) -> bool:
    """Whether a build would find that nothing has changed."""
    made_of = read_manifest(layout.manifest("s0")).input
    return made_of is not None and made_of.is_still_at(shard)


def test_a_replay_hides_no_other_change_of_its_shard(world: tuple[Path, OutputLayout]) -> None:
    """Rows 3 and 7 failed. What has happened to the others meanwhile is not passed off as what was scored."""
    shard, layout = world
    write_world(shard.parent, shards=1, special={(0, 5): "a corrected row"})
    with pytest.raises(ValueError, match=r"s0\.tar has changed in more than its quarantined rows: notes/s0/5 was"):
        list(readable_rows(layout, ()))
    write_world(shard.parent, shards=1, rows=11)  # the failed rows are mended, and one is new
    name, tar = declare(layout, only(list(readable_rows(layout, ()))))
    process(layout.root.path, name, tar)
    settle(layout)
    assert outcome(layout.root.path) == {"scored": 10}
    assert not knows(layout, shard)
