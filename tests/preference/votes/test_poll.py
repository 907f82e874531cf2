"""What a voter sees next: seeded orders and sides, undo, skipped pairs again, and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from polite_flamingo.preference.votes.log import VoteLog
from polite_flamingo.preference.votes.poll import LONGEST_LOOK, Poll, UnknownBattle, cleaned
from tests.support.voting import battles, rewritten

MANY = battles([rewritten(number) for number in range(60)])


@pytest.fixture
def log(tmp_path: Path) -> VoteLog:
    return VoteLog(tmp_path / "votes.jsonl")


def walk(poll: Poll, voter: str, said: str = "left") -> list[tuple[str, bool]]:
    """Vote to the end; return each battle, and whether its first text stood on the left."""
    seen = []
    while shown := poll.upcoming(voter, 1):
        seen.append((shown[0].battle.id, shown[0].left is shown[0].battle.first))
        poll.vote(voter, shown[0].battle.id, said, 3.0)
    return seen


def test_every_voter_has_an_order_and_sides_of_their_own_the_same_each_time(log: VoteLog, tmp_path: Path) -> None:
    ann, bob = walk(Poll(MANY, log), "Ann"), walk(Poll(MANY, log), "Bob")
    assert sorted(ann) != sorted(bob) and [one for one, _ in ann] != [one for one, _ in bob]
    assert {one for one, _ in ann} == {one for one, _ in bob} == {battle.id for battle in MANY}
    assert all(15 < sum(left for _, left in seen) < 45 for seen in (ann, bob))
    elsewhere = Poll(MANY[::-1], VoteLog(tmp_path / "other.jsonl"))
    assert walk(elsewhere, "ANN") == ann, "on another day, and with a capital letter"
    assert walk(Poll(MANY, VoteLog(tmp_path / "third.jsonl"), seed=1), "Ann") != ann


def test_a_vote_for_a_side_is_a_vote_for_its_text(log: VoteLog) -> None:
    poll = Poll(MANY, log)
    lefts = dict(walk(poll, "Ann", "right"))
    for name, vote in log.of("Ann").items():
        assert vote.action == ("second" if lefts[name] else "first")
        assert vote.left == ("first" if lefts[name] else "second")


def test_a_restart_goes_on_where_the_voter_stopped(log: VoteLog, tmp_path: Path) -> None:
    poll = Poll(MANY, log)
    for _ in range(7):
        poll.vote("Ann", poll.upcoming("Ann")[0].battle.id, "tie", 1.0)
    wanted = [shown.battle.id for shown in poll.upcoming("Ann")]
    log.close()
    again = Poll(MANY, VoteLog(tmp_path / "votes.jsonl"))
    assert [shown.battle.id for shown in again.upcoming("ann")] == wanted and again.progress("ann").voted == 7


def test_undo_goes_back_vote_by_vote_and_shows_the_same_pair_the_same_way(log: VoteLog) -> None:
    poll = Poll(MANY, log)
    first, second = poll.upcoming("Ann")
    poll.vote("Ann", first.battle.id, "right", 1.0)
    poll.vote("Ann", second.battle.id, "both_bad", 1.0)
    assert poll.undo("Ann") == "both_bad" and poll.upcoming("Ann")[0] == second
    assert poll.undo("Ann") == "right" and poll.upcoming("Ann")[0] == first
    assert poll.undo("Ann") == "" and not poll.progress("Ann").can_undo
    assert poll.undo("Bob") == "", "nobody takes back what others said"


def test_skipped_pairs_can_be_seen_again(log: VoteLog) -> None:
    poll = Poll(MANY[:6], log)
    for number, said in enumerate(["left", "skip", "tie", "skip", "right", "both_bad"]):
        poll.vote("Ann", poll.upcoming("Ann")[0].battle.id, said, float(number))
    progress = poll.progress("Ann")
    assert (progress.voted, progress.skipped, progress.total) == (6, 2, 6) and poll.upcoming("Ann") == []
    assert poll.reopen("Ann") == 2
    assert len(poll.upcoming("Ann", 9)) == 2 and poll.progress("Ann").voted == 4


def test_what_is_not_on_the_list_is_refused_and_odd_times_are_bounded(log: VoteLog) -> None:
    poll = Poll(MANY[:1], log)
    with pytest.raises(UnknownBattle):
        poll.vote("Ann", MANY[1].id, "left", 1.0)
    poll.vote("Ann", MANY[0].id, "left", 1e9)
    assert log.of("Ann")[MANY[0].id].seconds == LONGEST_LOOK


def test_names_are_cleaned_and_none_is_empty() -> None:
    assert cleaned("  Zoe\u0308 \n\t van  der Berg ") == "Zoë van der Berg"
    assert cleaned("שלום\u202e\u0000") == "שלום"
    for bad in ("", " \n", "\u200b", "x" * 41):
        with pytest.raises(ValueError, match="name"):
            cleaned(bad)
