"""What votes become: labels, agreement with machines and between voters, ratings of models, and the page."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.preference.votes.battles import Battle
from polite_flamingo.preference.votes.log import Action, Vote
from polite_flamingo.preference.votes.page import chart, disputes, page
from polite_flamingo.preference.votes.results import PEOPLE, Results, WithPeople, labels, results
from ray_jobs.agreement import read_labels
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained
from tests.support.voting import answered, battles, cast, conversation, rewritten

QUICK = Resampling(draws=100)


def by_id(found: Sequence[Battle]) -> dict[str, Battle]:
    return {battle.id: battle for battle in found}


def agreement(found: Results, rater: str) -> WithPeople:
    [one] = [one for one in found.agreements if one.rater == rater]
    return one


def test_labels_are_what_agreement_reads_and_say_what_most_people_would_keep(tmp_path: Path) -> None:
    one, two, three, four, five = battles([rewritten(number) for number in range(5)])
    turns = battles([conversation(2)])
    votes = [
        cast(one, "Ann", "first"), cast(two, "Ann", "second"), cast(three, "Ann", "tie"), cast(four, "Ann", "both_bad"),
        cast(one, "Bob", "first"), cast(five, "Ann", "first"), cast(five, "Bob", "second"), cast(two, "Bob", "skip"),
        cast(turns[0], "Ann", "first"), cast(turns[1], "Ann", "second"),
    ]  # fmt: skip
    lines = labels(votes)
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_labels(str(file)) == {
        (one.key, None): {"keep": True},
        (two.key, None): {"keep": False},
        (three.key, None): {"keep": True},
        (four.key, None): {"keep": False},
        (turns[0].key, 0): {"keep": True},
        (turns[0].key, 1): {"keep": False},
    }, "where voters are divided there is no label"


def test_choices_between_answers_are_lines_for_the_auditor_which_agreement_passes_over(tmp_path: Path) -> None:
    pairs = battles([replace(rewritten(number), rejected=f"wrong {number}") for number in range(12)])
    assert len({battle.first.name for battle in pairs}) == 2
    votes = [cast(battle, "Ann", "first" if battle.first.name == "chosen" else "second") for battle in pairs[:10]]
    votes += [cast(pairs[10], "Ann", "tie")]
    votes += [cast(pairs[11], "Ann", "second" if pairs[11].first.name == "chosen" else "first")]
    [answers, *_] = battles([answered(40, {"same": 3.0, "other": 1.0})])
    lines = labels([*votes, cast(answers, "Bob", "both_bad"), cast(answers, "Ann", "skip")])
    for line in lines[:10]:
        assert line[line["vote"]] == "chosen" and {line["first"], line["second"]} == {"chosen", "rejected"}
    assert lines[10]["vote"] == "tie" and lines[11][lines[11]["vote"]] == "rejected"
    numbers = {answers.first.name: answers.first.number, answers.second.name: answers.second.number}
    assert numbers == {"same": 0, "other": 1}
    assert lines[12:] == [
        {"key": answers.key, "first": answers.first.number, "second": answers.second.number, "vote": "both_bad",
         "voter": "Bob"}
    ]  # fmt: skip
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"key": "a", "keep": True}]))
    assert read_labels(str(file)) == {("a", None): {"keep": True}}
    label = agreement(results(by_id(pairs), votes, QUICK), "the pair's label")
    assert (label.share.value, label.share.n, label.undecided) == (pytest.approx(10 / 11), 11, 1)


def test_agreement_counts_pairs_on_which_both_have_an_opinion() -> None:
    rewards = [3.0, 2.0, 1.0, -1.0, -2.0, 0.0, 2.0, 1.0]
    found = battles([rewritten(number, reward=reward) for number, reward in enumerate(rewards)])
    said: list[Action] = ["first", "first", "second", "second", "second", "first", "tie", "both_bad"]
    votes = [cast(battle, "Ann", action) for battle, action in zip(found, said, strict=True)]
    one = agreement(results(by_id(found), votes, QUICK), "reward model")
    assert (one.share.value, one.share.n, one.undecided) == (0.8, 5, 3)
    # By hand: people 2 of 5 for the first, the model 3 of 5; by chance 0.4 * 0.6 + 0.6 * 0.4 = 0.48.
    assert one.kappa.value == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    assert one.kappa.low is not None and one.kappa.low < one.kappa.value


def test_nli_is_compared_with_what_people_would_keep() -> None:
    margins = [5.0, 4.0, -3.0, -3.0, 5.0]
    found = battles([rewritten(n, nli=[0.0, margin, -9.0]) for n, margin in enumerate(margins)])
    said: list[Action] = ["first", "tie", "second", "both_bad", "both_bad"]
    votes = [cast(battle, "Ann", action) for battle, action in zip(found, said, strict=True)]
    one = agreement(results(by_id(found), votes, QUICK), "NLI")
    assert (one.share.value, one.share.n, one.undecided) == (0.8, 5, 0) and "keep" in one.about


def test_voters_are_compared_with_each_other_and_described() -> None:
    found = battles([rewritten(number) for number in range(10)])
    votes = [cast(battle, "Ann", "first", seconds=3.0) for battle in found]
    votes += [
        cast(battle, "Bob", "first" if place < 6 else "second", left="second", seconds=9.0)
        for place, battle in enumerate(found[:8])
    ]
    votes += [cast(found[8], "Bob", "tie", seconds=1.0), cast(found[9], "Bob", "skip")]
    figures = results(by_id(found), votes, QUICK)
    people = agreement(figures, PEOPLE)
    assert (people.share.value, people.share.n, people.undecided) == (0.75, 8, 1)
    ann, bob = figures.voters
    assert (ann.name, ann.votes, ann.seconds, ann.left) == ("Ann", 10, 3.0, 1.0)
    assert (bob.votes, bob.ties, bob.skipped, bob.seconds, bob.left) == (9, 1, 1, 9.0, 0.25)
    assert figures.left.value == pytest.approx(12 / 18) and figures.left.n == 18
    assert (figures.votes, figures.voted) == ({"first": 16, "second": 2, "tie": 1, "skip": 1}, 10)


def models(battles_wanted: int) -> tuple[list[Battle], list[Vote]]:
    """Three models: people prefer them in the order of their quality, the judge swaps the last two."""
    rng, people = random.Random(4), {"clever": 3, "base": 2, "tiny": 0}
    judge = {"clever": 9.0, "base": 1.0, "tiny": 4.0}
    found = battles([answered(number, judge) for number in range(battles_wanted)])
    votes = []
    for battle in found:
        better = people[battle.first.name] > people[battle.second.name]
        votes.append(cast(battle, rng.choice(["Ann", "Bob"]), "first" if better ^ (rng.random() < 0.2) else "second"))
    return found, votes


def test_models_are_ranked_by_people_and_by_the_judge_on_the_same_pairs() -> None:
    found, votes = models(60)
    [table] = results(by_id(found), votes, QUICK).tables
    assert [one.name for one in table.people] == ["clever", "base", "tiny"]
    assert [one.name for one in table.machines["rule"]] == ["clever", "tiny", "base"]
    assert table.ranks["rule"] == pytest.approx(0.5)


def test_votes_on_pairs_that_are_gone_count_in_the_ratings_alone() -> None:
    found, votes = models(20)
    figures = results(by_id(found[:30]), votes, QUICK)
    assert figures.elsewhere == 30 and figures.voted == 30
    assert sum(one.wins for one in figures.tables[0].people) == 60
    assert agreement(figures, "rule").share.n == 30


def test_the_most_certain_machine_that_contradicts_people_is_shown_first_then_voters_who_disagree() -> None:
    found = battles([rewritten(number, reward=reward) for number, reward in enumerate([0.5, 9.0, -4.0, 1.0])])
    said: list[Action] = ["second", "second", "second", "first"]
    votes = [cast(battle, "Ann", action) for battle, action in zip(found, said, strict=True)]
    shown = disputes(by_id(found), [*votes, cast(found[3], "Bob", "second"), cast(found[2], "Bob", "both_bad")])
    assert [one.battle.key for one in shown] == [found[1].key, found[0].key, found[3].key]
    assert shown[0].preferred == found[1].second and "by 9" in shown[0].why and shown[2].preferred is None


def rendered(found: list[Battle], votes: list[Vote]) -> str:
    shown = by_id(found)
    return page(results(shown, votes, QUICK), shown, votes, about=[("Input", "<out> & more")], resampling=QUICK)


def test_the_page_is_self_contained_and_says_every_figure() -> None:
    compared = battles([rewritten(number, reward=-1.0) for number in range(6)])
    found, votes = models(20)
    votes += [cast(battle, "Ann <b>", "first") for battle in compared]
    text = rendered([*found, *compared], votes)
    assert_self_contained(text)
    assert_readable_aloud(Page(text))
    words = re.sub(r"\s+", " ", Page(text).words)
    for part in ("66 votes of 3 people", "clever", "Rewritten against raw", REWRITTEN, RAW, "Ann <b>", "<out> & more",
                 "not the same (Spearman 0.50)", "reward model prefers the other text, by 1"):  # fmt: skip
        assert part in words, part
    assert not chart("none", []).count("circle")


def test_the_page_of_no_votes_says_so() -> None:
    text = rendered(battles([rewritten(1)]), [])
    assert_self_contained(text)
    assert "Nobody has voted yet" in text and "Nothing to compare with" in text
