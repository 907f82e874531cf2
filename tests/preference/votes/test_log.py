"""No vote that was acknowledged is lost, and no crash leaves a file that cannot be read."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.preference.votes.log import VoteLog
from tests.support.voting import battles, cast, rewritten

FIVE = battles([rewritten(number) for number in range(5)])


def test_votes_are_there_again_and_the_later_of_two_counts(tmp_path: Path) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    for vote in (cast(FIVE[0], "Ann", "first"), cast(FIVE[1], "Ann", "tie"), cast(FIVE[0], "ann", "second")):
        log.append(vote)
    log.append(cast(FIVE[0], "Bob", "both_bad"))
    log.append(cast(FIVE[1], "Ann", "undo"))
    log.close()
    again = VoteLog(tmp_path / "votes.jsonl")
    assert {name: vote.action for name, vote in again.of("ANN").items()} == {FIVE[0].id: "second"}
    assert [vote.action for vote in again.of("Bob").values()] == ["both_bad"]
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 5, "nothing is ever removed"


def test_a_name_with_half_of_a_surrogate_pair_is_kept_as_it_is(tmp_path: Path) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    log.append(replace(cast(FIVE[0], "Ån", "first"), first="mod\udc80el"))
    log.close()
    [vote] = VoteLog(tmp_path / "votes.jsonl").all()
    assert vote.first == "mod\udc80el" and "Ån" in (tmp_path / "votes.jsonl").read_text()


@pytest.mark.parametrize("cut", [1, 20, -2, -1])
def test_a_line_that_was_cut_short_is_dropped_and_the_next_vote_stands_on_its_own(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "votes.jsonl"
    log = VoteLog(file)
    log.append(cast(FIVE[0], "Änn", "first"))
    whole = file.read_bytes()
    log.append(cast(FIVE[1], "Änn", "second"))
    log.close()
    last = file.read_bytes()[len(whole) :]
    file.write_bytes(whole + last[:cut])
    torn = VoteLog(file)
    assert [*torn.of("Änn")] == [FIVE[0].id] and torn.damaged == 0
    torn.append(cast(FIVE[2], "Änn", "tie"))
    torn.close()
    assert [*VoteLog(file).of("Änn")] == [FIVE[0].id, FIVE[2].id]


def test_lines_that_somebody_damaged_are_counted_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    log = VoteLog(file)
    log.append(cast(FIVE[0], "Ann", "first"))
    log.close()
    good = json.loads(file.read_text())
    bad = [{**good, "action": "third"}, {**good, "seconds": "soon"}, {"voter": "Ann"}, [1], {**good, "battle": None}]
    lines = [json.dumps(one).encode() for one in bad] + [b"\xff\xfe", b"[" * 5000]
    file.write_bytes(file.read_bytes() + b"\n".join(lines) + b"\n")
    again = VoteLog(file)
    assert again.damaged == len(lines) and [*again.of("Ann")] == [FIVE[0].id]


def test_a_full_disk_loses_the_vote_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "votes.jsonl"
    log = VoteLog(file)
    log.append(cast(FIVE[0], "Ann", "first"))
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            log.append(cast(FIVE[1], "Ann", "second"))
    assert file.read_bytes() == before and [*log.of("Ann")] == [FIVE[0].id]
    log.append(cast(FIVE[1], "Ann", "tie"))
    assert [vote.action for vote in VoteLog(file).of("Ann").values()] == ["first", "tie"]


def test_voters_at_the_same_time_write_whole_lines(tmp_path: Path) -> None:
    log = VoteLog(tmp_path / "votes.jsonl")
    names = [f"voter {number}" for number in range(8)]
    threads = [
        threading.Thread(target=lambda who=who: [log.append(cast(one, who, "tie")) for one in FIVE]) for who in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = VoteLog(tmp_path / "votes.jsonl")
    assert again.damaged == 0 and all(len(again.of(name)) == 5 for name in names) and len(again.all()) == 40
