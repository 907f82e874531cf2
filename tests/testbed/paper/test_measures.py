"""Means over seeds with Student's interval, checked by hand; differences are taken sample by sample."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from polite_flamingo.evaluation.judging import RAW
from polite_flamingo.testbed.paper.measures import (
    MEASURES,
    between,
    gain,
    level,
    of_rewrites,
    rewritten,
    sides,
    tax,
)
from polite_flamingo.testbed.paper.results import PaperResults, rewrite_of
from polite_flamingo.testbed.study.measures import shown, spread
from tests.support.paper_example import SETS, example_results


@pytest.fixture(scope="module")
def results() -> PaperResults:
    return example_results(samples=20)


def test_if_all_questions_are_alike_the_interval_is_students_over_seeds() -> None:
    found = spread(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    # t(0.975; 2) = 4.302653, standard error 1 / √3
    assert found.value == 2.0 and found.seeds == (1.0, 2.0, 3.0) and found.questions == 2
    assert (found.low, found.high) == (pytest.approx(2 - 2.484138, abs=1e-5), pytest.approx(2 + 2.484138, abs=1e-5))


def test_if_all_seeds_are_alike_the_interval_is_students_over_questions() -> None:
    found = spread(np.tile(np.array([1.0, 2.0, 3.0]), (4, 1)))
    assert found.value == 2.0 and found.low == pytest.approx(2 - 2.484138, abs=1e-5)


def test_equal_numbers_do_not_make_certain() -> None:
    few, many = spread(np.zeros((5, 20))), spread(np.zeros((5, 1000)))
    assert (few.low, few.high) == (-0.15, 0.15) and many.high == 0.003, "the rule of three"


@pytest.mark.parametrize("seeds", [5, 8])
@pytest.mark.parametrize("spreads", [(0.05, 0.3, 0.3), (0.0, 0.3, 0.4), (0.05, 0.0, 0.5)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, spreads: tuple[float, float, float]) -> None:
    """Spreads of seeds, of questions, and of the rest, as differences of right answers have them."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        parts = [
            one * rng.normal(size=shape)
            for one, shape in zip(spreads, ((seeds, 1), (1, 300), (seeds, 300)), strict=True)
        ]
        found = spread(sum(parts))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / 600 <= 0.99


def test_what_cannot_have_an_interval_has_none() -> None:
    alone = spread(np.array([[1.0, 3.0]]))
    assert alone.value == 2.0 and alone.low is None and alone.high is None
    assert spread(np.array([[np.nan], [1.0]])).value is None
    single = spread(np.array([[1.0], [2.0]]))
    assert single.value == 1.5 and single.low is None
    assert spread(np.array([[1.0, np.nan, 3.0], [2.0, 5.0, 4.0]])).questions == 2


def test_a_difference_forgets_how_hard_the_samples_are(results: PaperResults) -> None:
    seeds = []
    for seed in results.seeds:
        scores = {name: {m: list(v) for m, v in numbers.items()} for name, numbers in seed.judged.scores.items()}
        scores["model clever"]["reward"] = [r and r + 1.5 for r in scores["model raw"]["reward"]]
        seeds.append(dataclasses.replace(seed, judged=dataclasses.replace(seed.judged, scores=scores)))
    found = gain(dataclasses.replace(results, seeds=tuple(seeds)), "clever", "raw", "politeness")
    assert found.value == pytest.approx(1.5) and max(found.seeds) == pytest.approx(min(found.seeds))


def test_a_level_is_the_mean_over_the_samples_of_its_sets(results: PaperResults) -> None:
    wanted = []
    for seed in results.seeds:
        numbers = seed.judged.scores["model clever"]["right"]
        answered = [n for n, name in zip(numbers, seed.judged.tasks, strict=True) if name == "in"]
        wanted.append(sum(answered) / len(answered))
    assert level(results, "clever", "accuracy_in").seeds == pytest.approx(wanted)
    assert level(results, "clever", "captions").value == pytest.approx(0.4)


def test_a_tie_with_the_annotation_is_half_a_win(results: PaperResults) -> None:
    [seed] = results.seeds[:1]
    scores = seed.judged.scores | {"model clever": seed.judged.scores[RAW]}
    same = dataclasses.replace(
        results, seeds=(dataclasses.replace(seed, judged=dataclasses.replace(seed.judged, scores=scores)),)
    )
    assert level(same, "clever", "win").value == 0.5


def test_the_tax_is_what_the_text_only_model_is_ahead(results: PaperResults) -> None:
    wanted = []
    for seed in results.seeds:
        places = [place for place, task in enumerate(seed.judged.tasks) if task == "text"]
        columns = [seed.judged.scores[f"model {who}"]["reward"] for who in ("text_only", "raw")]
        means = [sum(column[place] for place in places) / len(places) for column in columns]
        wanted.append(means[0] - means[1])
    assert tax(results, "raw", "text_politeness").seeds == pytest.approx(wanted)
    assert tax(results, "text_only", "text_politeness").value == 0


def test_models_along_the_stages_are_compared_on_what_all_of_them_answered(results: PaperResults) -> None:
    [seed, *others] = results.seeds
    scores = {name: {m: list(v) for m, v in numbers.items()} for name, numbers in seed.judged.scores.items()}
    scores["model stage_1"]["right"][0] = None
    less = dataclasses.replace(seed, judged=dataclasses.replace(seed.judged, scores=scores))
    found = sides(dataclasses.replace(results, seeds=(less, *others)), ["stage_1", "clever"], "accuracy_in")
    assert [one.questions for one in found] == [19, 19]


def test_generations_are_compared_on_the_annotations_that_both_rewrote(results: PaperResults) -> None:
    assert between(results, ("first", "reward"), ("first", "reward_raw")).value == pytest.approx(2.0, abs=0.1)
    assert between(results, ("second", "reward"), ("first", "reward")).value == pytest.approx(0.6)
    assert rewritten(results, "second", "unchanged").value == 0
    captions = of_rewrites(results, "first", "clip")
    assert captions.shape == (3, 80) and np.isfinite(captions).sum() == 120, "only captions have a CLIPScore"
    assert of_rewrites(results, "first", "reward", ("aokvqa",)).shape == (3, 40)


def test_a_scored_record_becomes_a_rewrite() -> None:
    record = {"key": "a", "dataset": "d", "task": "captioning", "reward_raw": -1.0, "reward": None, "same_text": False,
              "clip_paragraphs": [20.0, None, 30.0], "rouge_l": 0.2}  # fmt: skip
    found = rewrite_of(record)
    assert found.clip == 25.0 and found.reward is None and not found.unchanged
    assert rewrite_of({**record, "clip_paragraphs": None}).clip is None


def test_results_survive_json_and_refuse_what_cannot_be_compared(results: PaperResults) -> None:
    again = PaperResults.from_json(json.loads(json.dumps(results.to_json())))
    assert again.to_json() == results.to_json() and again.run == results.run
    assert level(again, "clever", "win") == level(results, "clever", "win")
    with pytest.raises(ValueError, match="at least one seed"):
        dataclasses.replace(results, seeds=())
    with pytest.raises(ValueError, match=r"unknown roles \['cleverer'\]; known are base"):
        dataclasses.replace(results, roles={"cleverer": "model clever"})
    with pytest.raises(ValueError, match=r"seed 0 has the sets \['text'\]"):
        dataclasses.replace(results, sets={name: one for name, one in SETS.items() if name != "text"})
    other = dataclasses.replace(results.seeds[1].judged, keys=results.seeds[1].judged.keys[::-1])
    with pytest.raises(ValueError, match="seed 1 was asked other questions than seed 0"):
        dataclasses.replace(results, seeds=(results.seeds[0], dataclasses.replace(results.seeds[1], judged=other)))
    with pytest.raises(ValueError, match="seed 0 has no answers by nobody"):
        dataclasses.replace(results, roles={"clever": "nobody"})


def test_numbers_are_shown_in_the_unit_of_their_measure() -> None:
    assert shown(0.434, MEASURES["accuracy_in"]) == "43.4 %"
    assert shown(-0.00004, MEASURES["accuracy_in"], sign=True) == "0.0 %"
    assert shown(-2.421, MEASURES["politeness"]) == "−2.42" and shown(None, MEASURES["win"]) == "–"
