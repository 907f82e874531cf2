"""A selection can reject near-duplicates by thresholds that move without computing anything again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from actors.commit import commit_blocks
from actors.rows import Block
from polite_flamingo.faults import journal
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.near_duplicates.signatures import Signatures, sign
from polite_flamingo.sample import Sample, Turn
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard, file_of, read_manifest
from polite_flamingo.storage.run_info import read_stats, write_run
from ray_jobs import select
from ray_jobs.resumable_job import begin_run
from tests.support.scored import scored

QUESTION = "What can you see in this picture, next to the old wooden table?"


def asked(number: int, question: str) -> Sample:
    turn = Turn(instruction=f"<image>{question}", response="Answer: a red circle")
    return dataclasses.replace(scored(f"d/t/{number}"), turns=(turn,))


def commit(layout: OutputLayout, name: str, rows: list[Sample], *, signed: bool) -> None:
    def manifest(good: int, lost: int) -> Manifest:
        return Manifest(shard=f"{name}.tar", rows_in=good + lost, scored=good, quarantined=lost, config_hash="hash")

    commit_shard(layout, name, rows, manifest, sign(rows).encode() if signed else b"")


@pytest.fixture
def layout(tmp_path: Path) -> OutputLayout:
    """Two shards with signatures; the second repeats a question with one word changed, and asks two others."""
    layout = OutputLayout(root=tmp_path / "out")
    write_run(layout, begin_run("hash", {}, ""))
    commit(layout, "s0", [asked(0, QUESTION), asked(1, "How many birds are there?")], signed=True)
    rows = [asked(2, QUESTION.replace("old", "odd")), asked(3, "Is it raining outside now?"), scored("d/t/4", "text")]
    commit(layout, "s1", rows, signed=True)
    return layout


def counts(layout: OutputLayout, **thresholds: float) -> dict[str, int]:
    select.select(layout, Thresholds(**thresholds))
    stats = read_stats(layout)
    return {"kept": stats["kept"], **stats["rejected"]}


def test_a_threshold_moves_and_the_what_if_curve_foretells_it(layout: OutputLayout) -> None:
    assert counts(layout) == {"kept": 5}, "off by default"
    curve = read_stats(layout)["statistics"]["curves"]["near_text"]
    assert sum(curve["scores"]["bins"].values()) == 5 and curve["kept"] == 5
    assert "Near-duplicates" in layout.report.read_text()
    assert counts(layout, near_text=0.7) == {"kept": 4, "near_duplicate": 1}
    assert counts(layout, near_text=0.95) == {"kept": 5}
    assert counts(layout, near_image=0.93) == {"kept": 2, "repeated_image": 3}, "one picture, and one text without"
    assert "picture seen before" in layout.report.read_text()


def test_a_conversation_is_a_near_duplicate_as_a_whole(layout: OutputLayout) -> None:
    first = asked(5, QUESTION)
    turns = tuple(
        dataclasses.replace(first.turns[0], instruction=text, rewritten=first.rewritten, scores=first.scores)
        for text in (f"<image>{QUESTION}", "Is there anything else that you can tell me about it?")
    )
    talks = [dataclasses.replace(first, key=f"d/t/talk{n}", turns=turns, rewritten=None, scores={}) for n in range(2)]
    commit(layout, "s2", talks, signed=True)
    assert counts(layout) == {"kept": 7}
    assert counts(layout, near_text=0.9) == {"kept": 6, "near_duplicate": 1}


def test_shards_of_earlier_versions_are_signed_once_a_threshold_needs_it(
    layout: OutputLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(layout, "s2", [asked(5, QUESTION), asked(6, "Is it Sunday?")], signed=False)
    assert counts(layout) == {"kept": 7} and "signatures" not in capsys.readouterr().err
    assert counts(layout, near_text=0.7) == {"kept": 5, "near_duplicate": 2}
    assert "computing signatures of 1 shard, once" in capsys.readouterr().err
    assert counts(layout, near_text=0.7) == {"kept": 5, "near_duplicate": 2}
    assert "signatures" not in capsys.readouterr().err
    near = file_of(layout, "s2", read_manifest(layout.manifest("s2")), "near")
    assert near is not None and len(Signatures.decode(near.read_bytes()).counts) == 2


def test_a_committed_shard_has_signatures_and_a_picture_that_kills_workers_is_not_read(tmp_path: Path) -> None:
    rows = [asked(0, QUESTION), asked(1, "Is it Sunday?")]
    block = Block(name="a", shard="a.tar", first=0, shard_rows=2, rows=rows)
    found = {}
    for deaths in (0, 1, 2):
        layout = OutputLayout(root=tmp_path / f"{deaths}")
        killed = []
        for _ in range(deaths):
            note = journal.Journal(layout.journal, "signing").open("a", 0)
            killed.append(note.busy(0, range(2), alone=False))
            killed[-1].__enter__()  # and never leaves
        commit_blocks(block.to_table(), layout, "hash", near=True)
        near = file_of(layout, "a", read_manifest(layout.manifest("a")), "near")
        assert near is not None and not layout.journal.names()
        found[deaths] = Signatures.decode(near.read_bytes())
    assert found[0].encode() == found[1].encode() == sign(rows).encode()
    assert found[2].encode() == sign(rows, read_pictures=False).encode() != found[0].encode()
