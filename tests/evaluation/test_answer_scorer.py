"""Clever Flamingo of the zoo picks answers about Shapes, and packing changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from polite_flamingo.evaluation.answer_scorer import FlamingoScorer
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.choices import Choices, Options
from polite_flamingo.evaluation.multiple_choice import choice_results, score_choices
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.testbed.shapes.exam import exam


@pytest.fixture(scope="module")
def scorer() -> FlamingoScorer:
    config = RewriterConfig(
        flamingo=FlamingoConfig(folder="zoo:clever_flamingo"), device="cpu", dtype="float32", threads=1
    )
    return FlamingoScorer(config)


def questions(size: int) -> list[Choices]:
    """Questions about drawn scenes; the choices are sentences, in an order that tells nothing."""
    rng, found = random.Random(5), []
    for item in exam("in", 4 * size):
        asked = item.check.question
        if item.kind == "why" or asked is None or not asked.others:
            continue
        answers = [asked.answer, *asked.others[:3]]
        rng.shuffle(answers)
        options = Options(texts=tuple(map(asked.statement, answers)), right=answers.index(asked.answer))
        found.append(Choices(sample=item.sample, options=options))
    return found[:size]


def test_a_model_that_sees_picks_right_far_more_often_than_chance(scorer: FlamingoScorer) -> None:
    asked = questions(40)
    options = [question.options for question in asked]
    blind = [replace(question, sample=replace(question.sample, images=other.sample.images))
             for question, other in zip(asked, [*asked[1:], asked[0]], strict=True)]  # fmt: skip
    scored = {"seeing": score_choices(asked, scorer), "shown another picture": score_choices(blind, scorer)}
    found = choice_results(options, scored, "mean", Resampling(draws=50))
    seeing, other = found["seeing"], found["shown another picture"]
    assert seeing.accuracy.n == 40 and seeing.chance < 0.5
    assert (seeing.accuracy.value or 0) > seeing.chance + 0.4
    assert (other.accuracy.value or 0) < (seeing.accuracy.value or 0) - 0.2


def test_packed_answers_score_as_one_by_one(scorer: FlamingoScorer) -> None:
    asked = [(question.sample, text) for question in questions(6) for text in question.options.texts]
    text_only = replace(asked[0][0], images=(), turns=(replace(asked[0][0].turns[0], instruction="Is snow white?"),))
    asked += [(text_only, "Yes, it is."), (text_only, "No.")]
    packed, alone = scorer.log_probs(asked), scorer.log_probs(asked, alone=True)
    for one, other in zip(packed, alone, strict=True):
        assert not isinstance(one, BadSample) and not isinstance(other, BadSample)
        assert one[1] == other[1] and one[0] < 0
        assert one[0] == pytest.approx(other[0], abs=1e-5 * max(1.0, abs(other[0])))


def test_what_cannot_be_asked_has_a_reason_and_harms_no_neighbour(scorer: FlamingoScorer) -> None:
    [question] = questions(1)
    sample, text = question.sample, question.options.texts[0]
    torn = replace(sample, key="d/torn", images=(Image(extension="png", data=b"cut short"),))
    found = scorer.log_probs([(torn, text), (sample, text), (sample, text * 2000), (sample, " ")])
    reasons = [one.reason if isinstance(one, BadSample) else "" for one in found]
    assert reasons == ["corrupt_image", "", "text_too_long", "empty_response"]
    assert isinstance(found[0], BadSample) and "d/torn" in found[0].detail
    [alone] = scorer.log_probs([(sample, text)])
    assert not isinstance(alone, BadSample) and not isinstance(found[1], BadSample)
    assert found[1][0] == pytest.approx(alone[0], abs=1e-5)
