"""Repeated, contradicting and useless pairs, and questions that leak into evaluation sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from polite_flamingo.preference.audit.check import Check
from polite_flamingo.preference.audit.duplicates import (
    Neighbours,
    Questions,
    duplicates,
    leaks,
    neighbours,
    questions_of,
)
from polite_flamingo.preference.audit.evidence import Collected, Evidence, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.people import Labels
from polite_flamingo.sample import Sample, Turn
from polite_flamingo.testbed.shapes.exam import exam


def pair(key: str, chosen: str = "two", rejected: str = "three", *, like: int = 0, asked: str = "") -> Sample:
    """A pair about the picture of an exam's question, which may be asked in other words."""
    item = exam("in", 12)[like].sample
    asked = f"<image>{asked}" if asked else item.instruction
    turn = Turn(instruction=asked, response="two")
    return dataclasses.replace(item, key=key, turns=(turn,), rewritten=chosen, rejected=rejected)


def evidence_of(*samples: Sample) -> Evidence:
    settings = AuditSettings()
    collected = Collected(settings=settings)
    for sample in samples:
        collected.add(sample, "shard")
    return gather(collected, Labels())


def compared(tmp_path: Path, pairs: tuple[Sample, ...], evaluation: tuple[Sample, ...] = ()) -> Neighbours:
    asked = Questions(name="1-pairs", folder=tmp_path / "signatures")
    kept_out = Questions(name="0-evaluation", folder=tmp_path / "signatures")
    asked.add((one.turns[-1].instruction, one.images) for one in pairs)
    kept_out.add(question for one in evaluation for question in questions_of(one))
    return neighbours(asked, kept_out, 0.9, tmp_path / "scratch")


def share(check: Check, name: str) -> float:
    [found] = [one.found.value for one in check.measures if one.name == name]
    assert found is not None
    return found


def test_pairs_that_teach_nothing_are_counted() -> None:
    pairs = (
        pair("a/b/0"), pair("a/b/1"), pair("a/b/2", "three", "two"), pair("a/b/3", "same", " same\n"),
        pair("a/b/4", "", "three"), pair("a/b/5", like=1),
    )  # fmt: skip
    found = duplicates(evidence_of(*pairs), Neighbours(), near=False)
    assert share(found, "equal or empty sides") == 2 / 6
    assert share(found, "repeats an earlier pair") == 1 / 6
    assert share(found, "contradicts another pair") == 3 / 6, "the pair that repeats counts, too"
    assert found.verdict == "fail" and "rensa" in found.missing[0]


def test_the_same_sides_to_another_question_repeat_nothing() -> None:
    found = duplicates(evidence_of(pair("a/b/0"), pair("a/b/1", like=1)), Neighbours(), near=False)
    assert found.verdict == "pass"


def test_a_question_of_an_evaluation_set_leaks_and_a_near_one_warns(tmp_path: Path) -> None:
    long = "In this picture, which of all the many things that it shows is the one that lies furthest to the left"
    pairs = (pair("a/b/0"), pair("a/b/1", like=1, asked=f"{long}?"), pair("a/b/2", like=2))
    exam_set = (
        pair("eval/0"), pair("eval/1", like=1, asked=f"{long} side?"), pair("eval/2", like=2, asked=f"{long}?"),
    )  # fmt: skip
    found = compared(tmp_path, pairs, exam_set)
    evidence = evidence_of(*pairs)
    assert found.leaked == {evidence.pairs[0].asked} and found.near_leaked == {evidence.pairs[1].asked}
    check = leaks(evidence, found, near=True)
    assert check.verdict == "fail" and share(check, "question stands in an evaluation set") == 1 / 3
    [near] = [one for one in check.measures if one.name == "question nearly stands there"]
    assert near.verdict == "warn"
    assert not compared(tmp_path, pairs).near, "nor do the pairs repeat each other"


def test_a_leak_that_repeats_is_one_leak(tmp_path: Path) -> None:
    pairs = (pair("a/b/0"), pair("a/b/1", "five", "six"))
    found = compared(tmp_path, pairs, (pair("eval/0"),))
    assert (
        len(found.leaked) == 1
        and share(leaks(evidence_of(*pairs), found, near=True), "question stands in an evaluation set") == 1
    )


def test_different_questions_about_different_pictures_are_neither(tmp_path: Path) -> None:
    pairs = tuple(pair(f"a/b/{n}", like=n) for n in range(6))
    found = compared(tmp_path, pairs, tuple(pair(f"eval/{n}", like=n) for n in range(6, 12)))
    assert not found.near | found.leaked | found.near_leaked and found.compared == 6


def test_without_evaluation_sets_leaks_are_not_measured() -> None:
    assert leaks(evidence_of(pair("a/b/0")), Neighbours(), near=True).missing == ("evaluation sets (--evaluation)",)
