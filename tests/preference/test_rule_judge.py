"""The exact judge of Shapes tells right from wrong from garbled, without fail, and refuses what it cannot know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.evaluation.agreement import kappa
from polite_flamingo.preference.judges.rule import RuleJudge, load_rule
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.testbed.shapes.checks import check_of
from polite_flamingo.testbed.shapes.exam import PARTS, Part, exam, prompts
from polite_flamingo.testbed.shapes.rule import rate
from polite_flamingo.usage import Usage
from tests.support.rated_shapes import QUALITIES, with_answers

RULE = "polite_flamingo.testbed.shapes.rule:rate"


def told(values: dict[str, int]) -> int:
    """Right, wrong or garbled, by the ratings alone."""
    if values["coherence"] < 4:
        return 2
    return 0 if values["correctness"] == 4 else 1


@pytest.mark.parametrize("part", ["in", "out", "second", "text"])
def test_right_wrong_and_garbled_answers_are_told_apart_without_fail(part: Part) -> None:
    samples = with_answers(part, 40)
    found = np.array([told(rate(one, answer.text)[0]) for one in samples for answer in one.candidates])
    true = np.array([number for _ in samples for number in range(len(QUALITIES))])
    assert kappa(found, true) == 1.0 and set(found) == {0, 1, 2}


@pytest.mark.parametrize("part", PARTS)
def test_the_check_survives_a_shard_and_rates_the_same(part: Part, tmp_path) -> None:  # type: ignore[no-untyped-def]
    items = exam(part, 8)
    write_shard(tmp_path / "s0.tar", [item.sample for item in items])
    again = [row for row in read_shard(tmp_path / "s0.tar") if isinstance(row, Sample)]
    assert [check_of(one) for one in again] == [item.check for item in items]
    for one, item in zip(again, items, strict=True):
        assert rate(one, item.sample.response) == rate(item.sample, item.sample.response)


def test_what_is_right_in_part_lies_between_and_a_bare_word_is_no_sentence() -> None:
    item = next(one for one in exam("in", 40) if one.kind == "colour")
    question, scene = item.check.question, item.check.scene
    assert question is not None and scene is not None
    absent = next(c for c in ("red", "green", "blue", "yellow") if scene.find(c, "heart") is None)
    right = question.polite()

    def rated(text: str) -> tuple[int, int, int]:
        values, _ = rate(item.sample, text)
        return values["helpfulness"], values["correctness"], values["coherence"]

    assert rated(right) == (4, 4, 4)
    assert rated(f"{right} There is a {absent} heart.") == (2, 2, 4)
    assert rated(question.answer) == (2, 4, 2) == rated(f"Answer: {question.answer}")
    assert rated(f"{right} blah blah.") == (1, 2, 1)
    assert rated(f"There is a {scene.things[0].name}.")[1] in (1, 4), "true, but no answer unless it says so"
    assert rated("") == (0, 0, 0)


def test_longer_and_richer_answers_are_more_verbose_and_complex_but_not_more_correct() -> None:
    item = next(one for one in exam("in", 60) if one.kind == "count" and len(one.check.scene.things) > 1)  # type: ignore[union-attr]
    assert item.check.question is not None and item.check.scene is not None
    short, (thing, *_) = item.check.question.polite(), item.check.scene.things
    longer = f"{short} There is a {thing.name}."
    [(plain, _), (rich, _)] = [rate(item.sample, text) for text in (short, longer)]
    assert plain["correctness"] == rich["correctness"] == 4
    assert rich["complexity"] > plain["complexity"] and rich["verbosity"] >= plain["verbosity"]


def test_each_candidate_gets_one_rating_with_its_reason_and_a_sample_from_elsewhere_is_refused() -> None:
    judge = RuleJudge(load_rule(RULE))
    sample = with_answers(size=1)[0]
    elsewhere, damaged = replace(sample, meta={}), replace(sample, meta={"shapes": {"kind": "question"}})
    rated, *refused = judge.rate([sample, elsewhere, damaged], Usage())
    assert isinstance(rated, Sample)
    for one in rated.candidates:
        [rating] = one.ratings
        assert rating.judge == "rule" and {*rating.values} == {*ATTRIBUTES} and rating.reason and rating.shown == 1
    assert [one.reason for one in refused if isinstance(one, BadSample)] == ["unsupported", "bad_field"]


def test_a_conversation_is_judged_by_its_last_question() -> None:
    for sample in prompts("second", 5):
        check = check_of(sample)
        assert len(sample.turns) == 2 and check is not None and check.question is not None
        assert rate(sample, check.question.polite())[0]["correctness"] == 4


@pytest.mark.parametrize(
    "name", ["nowhere:rate", "polite_flamingo.sample:nothing", "polite_flamingo.sample:TASKS", "x"]
)
def test_a_rule_that_does_not_exist_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"judge\.rule .* give MODULE:FUNCTION"):
        load_rule(name)


def test_a_rule_that_rates_beyond_the_scale_fails_the_sample() -> None:
    [found] = RuleJudge(lambda sample, text: ({"correctness": 9}, "")).rate(with_answers(size=1), Usage())
    assert isinstance(found, BadSample) and found.reason == "judging_failed"
