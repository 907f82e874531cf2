"""People's labels: from lines of a file to agreement with the judge and with the pairs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.agreement import people
from polite_flamingo.preference.audit.check import Check
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.people import Labels, read_labels
from tests.support.rated_answers import rated

PROMPTS = 40
VOTERS = {"ann": "first", "ben": "first", "cid": "second"}


def labels_of(tmp_path: Path, *lines: dict[str, Any]) -> Labels:
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return read_labels(str(file))


def checked(labels: Labels) -> Check:
    """Of prompts whose first answer is better, 8 points apart, each with its pair."""
    settings = AuditSettings(resampling=Resampling(draws=20))
    collected = Collected(settings=settings)
    for number in range(PROMPTS):
        sample = rated(f"a/b/{number}", {"two": (4, 4, 4, 1, 1), "three": (2, number % 2, 2, 1, 1)})
        collected.add(dataclasses.replace(sample, rewritten="two", rejected="three"), "shard")
    return people(gather(collected, labels))


def figures(check: Check) -> dict[str, float]:
    return {one.name: one.found.value for one in check.measures if one.found.value is not None}


def vote(number: int, said: str = "first", voter: str = "ann", **more: Any) -> dict[str, Any]:
    return {"key": f"a/b/{number}", "first": "chosen", "second": "rejected", "vote": said, "voter": voter} | more


def test_votes_on_sides_and_on_numbers_agree_with_judge_and_pairs(tmp_path: Path) -> None:
    by_number = [vote(n, "second", first=1, second=0) for n in range(20)]  # the second is answer 0, the chosen one
    found = checked(labels_of(tmp_path, *by_number, *(vote(n) for n in range(20, PROMPTS))))
    assert figures(found) == {
        "choices of the judge": 1.0, "labels of the pairs": 1.0, "pairs that people would keep": 1.0,
    }  # fmt: skip
    assert found.verdict == "pass"


def test_people_who_see_it_the_other_way_round_fail_it(tmp_path: Path) -> None:
    found = checked(labels_of(tmp_path, *(vote(n, "second") for n in range(PROMPTS))))
    assert figures(found)["labels of the pairs"] == -1.0 and found.verdict == "fail"


def test_ties_are_counted_and_voters_compared(tmp_path: Path) -> None:
    ann = [vote(n, "tie" if n < 4 else "first") for n in range(PROMPTS)]
    ben = [vote(n, "second" if n % 4 == 0 else "first", "ben") for n in range(PROMPTS)]
    found = checked(labels_of(tmp_path, *ann, *ben))
    [judge] = [one for one in found.measures if one.name == "choices of the judge"]
    assert judge.about == "The same choice in 86.8 % of 76. People saw no difference in 4 more."
    assert figures(found)["people among themselves"] == pytest.approx(2 * 27 / 36 - 1)


def test_ratings_are_compared_attribute_by_attribute(tmp_path: Path) -> None:
    lines = [
        {"key": f"a/b/{n}", "answer": answer, "correctness": 4 if answer == 0 else n % 2, "helpfulness": 3}
        for n in range(PROMPTS)
        for answer in (0, 1)
    ]
    found = figures(checked(labels_of(tmp_path, *lines)))
    assert found["correctness"] == 1.0 and found["helpfulness"] == 0.0, "who always says 3 agrees by chance alone"


def test_the_later_vote_of_a_voter_counts_and_lines_for_other_commands_are_passed_over(tmp_path: Path) -> None:
    lines = [vote(0, "second", "Ann"), vote(0, "first", "ann"), {"key": "a/b/1", "keep": False, "turn": 2}]
    found = labels_of(tmp_path, *lines, {"key": "a/b/3", "relevance": 5})
    assert [(one.key, one.prefers) for one in found.votes] == [("a/b/0", 1.0)] and found.other == 2


def test_pairs_that_people_would_not_keep_fail_it(tmp_path: Path) -> None:
    said = ("first", "both_bad", "tie", "second", "both_bad")
    found = checked(labels_of(tmp_path, *(vote(n, said[n % 5]) for n in range(PROMPTS))))
    [kept] = [one for one in found.measures if one.name == "pairs that people would keep"]
    assert kept.found.value == 0.2 and kept.verdict == "fail"


def test_two_voters_of_three_keep_a_pair(tmp_path: Path) -> None:
    lines = [vote(n, said, voter) for n in range(PROMPTS) for voter, said in VOTERS.items()]
    assert figures(checked(labels_of(tmp_path, *lines)))["pairs that people would keep"] == 1.0
    assert figures(checked(labels_of(tmp_path, *lines[1:])))["pairs that people would keep"] == 1 - 1 / PROMPTS


def test_labels_of_unknown_answers_are_counted(tmp_path: Path) -> None:
    lines = [vote(n) for n in range(PROMPTS)] + [vote(999), vote(1, first=0, second=7, voter="ben")]
    found = checked(labels_of(tmp_path, *lines))
    assert found.missing == ("the answers of 2 of 42 labels",)


def test_without_labels_it_says_what_is_needed() -> None:
    found = checked(Labels())
    assert found.verdict == "not_measured" and "--labels" in found.missing[0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("red", "line 2: needs a JSON object with the key"),
        ('{"vote": "first"}', "line 2: needs a JSON object with the key"),
        ('{"key": "a", "first": 0, "second": 1, "vote": "left"}', "line 2: vote must be one of first, second, tie"),
        ('{"key": "a", "first": 0, "second": 0, "vote": "tie"}', "line 2: first and second are the same answer"),
        (
            '{"key": "a", "first": "best", "second": 0, "vote": "tie"}',
            "line 2: first must be the number of a candidate",
        ),
        ('{"key": "a", "answer": 0, "correctness": 5}', "line 2: correctness must be a whole number from 0 to 4"),
        ('{"key": "a", "answer": 0, "manners": 2}', "line 2: rates none of helpfulness"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "labels.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=problem):
        read_labels(str(tmp_path / "labels.jsonl"))
