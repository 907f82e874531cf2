"""Rows that raise, rows that kill, models that are broken: each ends in the right place, and the rest goes on.

A process that dies is played by an exception that nothing catches, `Died`: like a SIGKILL it leaves the journal's note
behind. `tests/ray_jobs/test_build_survives.py` does it with real processes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polite_flamingo.faults import journal
from polite_flamingo.faults.bisection import Bisector, ModelBroken
from polite_flamingo.faults.guard import Guard
from polite_flamingo.faults.journal import MAX_DEATHS_PER_SHARD, Journal, ShardJournal, WorkerKeepsDying
from polite_flamingo.sample import BadSample, Quarantined, Sample, Turn, make_key
from polite_flamingo.storage.location import location

ROWS = 10
Work = Callable[[list[Sample]], list[Sample]]


class Died(BaseException):
    pass


def sample(n: int) -> Sample:
    return Sample(
        key=make_key("d", "s", n), dataset="d", task="text", turns=(Turn(instruction="Say it.", response=f"row {n}"),)
    )


def polite(samples: list[Sample]) -> list[Sample]:
    return [dataclasses.replace(s, rewritten=f"Certainly: {s.response} ({len(samples)} at once)") for s in samples]


def poisoned(error: BaseException, *bad: int) -> Work:
    def work(samples: list[Sample]) -> list[Sample]:
        if {s.key for s in samples} & {sample(n).key for n in bad}:
            raise error
        return polite(samples)

    return work


def guard(max_failures_in_a_row: int = 3) -> Guard:
    return Guard(reason="rewriting_failed", rows_per_call=4, max_failures_in_a_row=max_failures_in_a_row)


@pytest.fixture
def note(tmp_path: Path) -> Callable[[], ShardJournal]:
    return lambda: Journal(location(tmp_path), "rewrite").open("a")


def reasons(rows: list[Sample | Quarantined]) -> dict[int, str]:
    return {index: row.reason for index, row in enumerate(rows) if isinstance(row, Quarantined)}


def survive(work: Work, note: Callable[[], ShardJournal]) -> tuple[list[Sample | Quarantined], int]:
    """Restart a dying worker as the scheduler does; return the rows and how many died."""
    for deaths in range(100):
        try:
            return guard().run(work, [sample(n) for n in range(ROWS)], "a.tar", note()), deaths
        except Died:
            pass
    raise AssertionError("it never ends")


@pytest.fixture(autouse=True)
def kill_leaves_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """`busy` clears its note in `finally`, which a killed process never reaches."""
    write = ShardJournal._write

    def unless_dying(self: ShardJournal) -> None:
        if not isinstance(sys.exc_info()[1], Died):
            write(self)

    monkeypatch.setattr(ShardJournal, "_write", unless_dying)


def test_calls_are_formed_in_order_and_quarantined_rows_pass_through(note: Callable[[], ShardJournal]) -> None:
    gone = Quarantined(key="x", shard="a.tar", index=2, reason="bad_json", detail="")
    rows = [sample(0), sample(1), gone, *(sample(n) for n in range(3, 7))]
    result = guard().run(polite, rows, "a.tar", note())
    assert result[2] is gone
    assert [r.rewritten.split("(")[1] for r in result if isinstance(r, Sample) and r.rewritten] == [
        "4 at once)"
    ] * 4 + ["2 at once)"] * 2


def test_a_row_that_raises_is_quarantined_alone(note: Callable[[], ShardJournal]) -> None:
    rows = guard().run(poisoned(RuntimeError("index 7\nmore"), 5), [sample(n) for n in range(ROWS)], "a.tar", note())
    assert reasons(rows) == {5: "rewriting_failed"}
    bad = rows[5]
    assert isinstance(bad, Quarantined)
    assert (bad.index, bad.detail) == (5, "d/s/5: RuntimeError: index 7")
    assert bad.payload == "a.tar#d/s/5.json"


def test_parts_are_in_order_and_hold_each_sample_once(note: Callable[[], ShardJournal]) -> None:
    """`work` may return one thing for all of its samples, as the judges of an evaluation do."""
    gone = Quarantined(key="x", shard="a.tar", index=2, reason="bad_json", detail="")
    rows = [sample(0), sample(1), gone, *(sample(n) for n in range(3, 8))]

    def joined(samples: list[Sample]) -> str:
        return " ".join(s.response for s in poisoned(RuntimeError("no"), 4)(samples))

    parts = list(guard().parts(joined, rows, note()))
    assert [indices for indices, _ in parts] == [[0, 1], [3], [4], [5, 6, 7]]
    assert [found for _, found in parts if isinstance(found, str)] == ["row 0 row 1", "row 3", "row 5 row 6 row 7"]
    assert [found.reason for _, found in parts if isinstance(found, BadSample)] == ["rewriting_failed"]


def test_a_model_that_works_again_is_not_broken() -> None:
    bisector = Bisector(reason="scoring_failed", max_failures_in_a_row=2)
    work = poisoned(RuntimeError("CUDA"), 0, 1, 2)
    with pytest.raises(ModelBroken, match="3 rows in a row ended in scoring_failed"):
        bisector.run(work, [sample(n) for n in range(4)])
    assert bisector.broken
    assert [len(part) for part, _ in bisector.run(work, [sample(3), sample(4)])] == [2] and not bisector.broken


def test_a_bad_sample_keeps_its_own_reason_and_does_not_accuse_the_model(note: Callable[[], ShardJournal]) -> None:
    work = poisoned(BadSample("corrupt_image", "not an image"), *range(ROWS))
    rows = guard(max_failures_in_a_row=0).run(work, [sample(n) for n in range(ROWS)], "a.tar", note())
    assert reasons(rows) == dict.fromkeys(range(ROWS), "corrupt_image")


def test_check_spares_the_model_a_bad_row(note: Callable[[], ShardJournal]) -> None:
    def check(s: Sample) -> None:
        if s.key == sample(1).key:
            raise BadSample("image_too_large", "a bomb")

    rows = guard().run(
        poisoned(AssertionError("must not be called"), 1), [sample(0), sample(1)], "a.tar", note(), check
    )
    assert reasons(rows) == {1: "image_too_large"}


def test_an_answer_that_json_cannot_hold_is_the_rows_failure(note: Callable[[], ShardJournal]) -> None:
    def work(samples: list[Sample]) -> list[Sample]:
        return [dataclasses.replace(s, scores={"sts": float("nan") if s == sample(2) else 0.5}) for s in samples]

    rows = guard().run(work, [sample(n) for n in range(4)], "a.tar", note())
    assert reasons(rows) == {2: "rewriting_failed"}


def test_a_broken_model_stops_the_job_instead_of_quarantining_everything(note: Callable[[], ShardJournal]) -> None:
    shared = guard()
    work = poisoned(RuntimeError("CUDA error: device-side assert"), *range(ROWS))
    shared.run(work, [sample(0), sample(1)], "a.tar", note())  # small shards: it counts over all of them
    with pytest.raises(ModelBroken, match=r"4 rows in a row ended in rewriting_failed; the last, d/s/3: .*CUDA"):
        shared.run(work, [sample(2), sample(3)], "b.tar", note())


def test_one_death_changes_nothing(note: Callable[[], ShardJournal]) -> None:
    undisturbed = guard().run(polite, [sample(n) for n in range(ROWS)], "a.tar", note())
    died: list[int] = []

    def once(samples: list[Sample]) -> list[Sample]:
        if len(died) < 1 and sample(5) in samples:
            died.append(1)
            raise Died
        return polite(samples)

    rows, deaths = survive(once, note)
    assert (rows, deaths) == (undisturbed, 1)


def test_a_row_that_kills_is_found_with_three_deaths(note: Callable[[], ShardJournal]) -> None:
    rows, deaths = survive(poisoned(Died(), 6), note)
    assert reasons(rows) == {6: "killed_worker"}
    assert deaths == 3


def test_two_killers_in_one_call_and_one_in_another(note: Callable[[], ShardJournal]) -> None:
    rows, deaths = survive(poisoned(Died(), 4, 7, 9), note)
    assert reasons(rows) == dict.fromkeys((4, 7, 9), "killed_worker")
    assert deaths == 9


def test_a_model_that_dies_on_everything_ends_the_job(note: Callable[[], ShardJournal]) -> None:
    with pytest.raises(WorkerKeepsDying, match="died 31 times on shard a"):
        for n in range(100):
            try:
                rows = [sample(n) for n in range(100)]
                guard().run(poisoned(Died(), *range(100)), rows, "a.tar", note())
            except Died:
                assert n <= MAX_DEATHS_PER_SHARD


def test_a_new_job_forgets_deaths_but_not_the_condemned(tmp_path: Path, note: Callable[[], ShardJournal]) -> None:
    survive(poisoned(Died(), 6), note)
    with pytest.raises(Died):
        guard().run(poisoned(Died(), 0), [sample(n) for n in range(ROWS)], "a.tar", note())
    journal.clear(location(tmp_path))
    assert note().condemned == {6}
    assert not note().suspicious(0)
    journal.forget(location(tmp_path), "a")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_read_from_the_notes(tmp_path: Path, note: Callable[[], ShardJournal]) -> None:
    guard().run(polite, [sample(n) for n in range(ROWS)], "a.tar", note())
    assert journal.rows_done(location(tmp_path), "rewrite") == ROWS
    assert journal.rows_done(location(tmp_path), "score") == 0


def test_a_model_that_kills_its_process_while_loading_is_given_up(tmp_path: Path) -> None:
    stage = Journal(location(tmp_path), "rewrite")
    with stage.loading(patience=0):
        pass
    for dead in range(3):
        (tmp_path / f"rewrite.loading-host-{dead}").touch()
    with pytest.raises(WorkerKeepsDying, match="while it loaded"), stage.loading(patience=2):
        pass


def test_lost_machines_condemn_nobody(tmp_path: Path) -> None:
    """Three machines are taken away in the middle of one call; each worker runs on a machine of its own."""
    lost: set[str] = set()
    nodes = iter("abcdefgh")

    def note() -> ShardJournal:
        return Journal(location(tmp_path), "rewrite", node=next(nodes), lost=lambda: lost).open("a")

    def dying() -> None:
        with pytest.raises(Died):
            guard().run(poisoned(Died(), 6), [sample(n) for n in range(ROWS)], "a.tar", note())

    dying()
    dying()
    assert note().suspicious(4), "two that died on machines which are still there"
    lost.update("ab")  # which the cluster has noticed meanwhile
    assert not note().suspicious(4)
    dying()
    lost.add("e")
    rows = guard().run(polite, [sample(n) for n in range(ROWS)], "a.tar", note())
    assert reasons(rows) == {} and all(isinstance(row, Sample) for row in rows)


def test_the_death_of_a_lone_row_counts_unless_its_machine_is_lost(tmp_path: Path) -> None:
    lost: set[str] = set()
    nodes = iter("abcdefgh")
    died = []
    for name in nodes:
        try:
            note = Journal(location(tmp_path), "rewrite", node=name, lost=lambda: lost).open("a")
            rows = guard().run(poisoned(Died(), 6), [sample(n) for n in range(ROWS)], "a.tar", note)
            break
        except Died:
            died.append(name)
            if name == "c":
                lost.add(name)  # it had the row alone
    assert died == ["a", "b", "c", "d"], "the third death was the machine's"
    assert reasons(rows) == {6: "killed_worker"}


def test_lost_machines_are_no_count_against_loading(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        with pytest.raises(Died), Journal(location(tmp_path), "rewrite", node=name).loading(patience=9):
            raise Died
    stage = Journal(location(tmp_path), "rewrite", node="e", lost=lambda: {"a", "b", "c"})
    with stage.loading(patience=1):
        pass
    with pytest.raises(WorkerKeepsDying, match="while it loaded"), stage.loading(patience=0):
        pass
