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
    shown,
    spread,
    tax,
)
from polite_flamingo.testbed.paper.results import PaperResults, rewrite_of
from tests.support.paper_example import SETS, example_results


@pytest.fixture(scope="module")
def results() -> PaperResults:
    return example_results(samples=20)


def test_the_interval_over_seeds_is_students(results: PaperResults) -> None:
    found = spread([[np.array([one, one])] for one in (1.0, 2.0, 3.0)])
    # t(0.975; 2) = 4.302653, standard error 1 / √3
    assert found.value == 2.0 and found.seeds == (1.0, 2.0, 3.0)
    assert (found.low, found.high) == (pytest.approx(2 - 2.484138, abs=1e-5), pytest.approx(2 + 2.484138, abs=1e-5))
    assert found.within == (2.0, 2.0), "within a seed all samples are alike"


def test_what_cannot_have_an_interval_has_none() -> None:
    alone = spread([[np.array([1.0, 3.0])]])
    assert alone.value == 2.0 and alone.low is None and alone.high is None and alone.within is not None
    assert spread([[np.array([np.nan])], []]).value is None
    single = spread([[np.array([1.0])], [np.array([2.0])]])
    assert single.within is None and single.low is not None
    assert spread([[np.array([1.0, np.nan, 3.0])], [np.array([np.nan])]]).seeds == (2.0,)


def test_within_seeds_the_spread_of_the_samples_counts_and_over_seeds_that_of_their_means() -> None:
    rng = np.random.default_rng(0)
    seeds = [[rng.normal(size=400)] for _ in range(3)]
    found = spread(seeds)
    assert found.within is not None
    # three means of 400: standard error 1 / √1200
    assert (found.within[1] - found.within[0]) / 2 == pytest.approx(1.96 / 1200**0.5, rel=0.15)


def test_a_difference_forgets_how_hard_the_samples_are(results: PaperResults) -> None:
    seeds = []
    for seed in results.seeds:
        scores = {name: {m: list(v) for m, v in numbers.items()} for name, numbers in seed.judged.scores.items()}
        scores["model clever"]["reward"] = [r and r + 1.5 for r in scores["model raw"]["reward"]]
        seeds.append(dataclasses.replace(seed, judged=dataclasses.replace(seed.judged, scores=scores)))
    found = gain(dataclasses.replace(results, seeds=tuple(seeds)), "clever", "raw", "politeness")
    assert found.value == pytest.approx(1.5) and found.within == pytest.approx((1.5, 1.5))


def test_a_level_is_the_mean_over_the_samples_of_its_sets(results: PaperResults) -> None:
    wanted = []
    for seed in results.seeds:
        numbers = seed.judged.scores["model clever"]["accuracy"]
        answered = [n for n, name in zip(numbers, seed.judged.tasks, strict=True) if name == "vqa_v2"]
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


def test_the_tax_is_summed_over_the_sets_without_pictures(results: PaperResults) -> None:
    wanted = []
    for seed in results.seeds:
        total = 0.0
        for name in ("reading", "notes"):
            places = [place for place, task in enumerate(seed.judged.tasks) if task == name]
            columns = [seed.judged.scores[f"model {who}"]["reward"] for who in ("text_only", "raw")]
            means = [sum(column[place] for place in places) / len(places) for column in columns]
            total += means[0] - means[1]
        wanted.append(total)
    assert sum(one.domain == "text" for one in SETS.values()) == 2
    assert tax(results, "raw", "text_politeness").seeds == pytest.approx(wanted)
    assert tax(results, "text_only", "text_politeness").value == 0


def test_generations_are_compared_on_the_annotations_that_both_rewrote(results: PaperResults) -> None:
    assert between(results, ("first", "reward"), ("first", "reward_raw")).value == pytest.approx(2.0, abs=0.1)
    assert between(results, ("second", "reward"), ("first", "reward")).value == pytest.approx(0.6)
    assert rewritten(results, "second", "unchanged").value == 0
    captions = of_rewrites(results, "first", "clip")
    assert all(len(one) == 40 for one in captions), "only captions have a CLIPScore"
    assert all(len(one) == 40 for one in of_rewrites(results, "first", "reward", ("aokvqa",)))


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
    with pytest.raises(ValueError, match=r"seed 0 has the sets \['notes'\]"):
        dataclasses.replace(results, sets={name: one for name, one in SETS.items() if name != "notes"})
    with pytest.raises(ValueError, match="seed 0 has no answers by nobody"):
        dataclasses.replace(results, roles={"clever": "nobody"})


def test_numbers_are_shown_in_the_unit_of_their_measure() -> None:
    assert shown(0.434, MEASURES["accuracy_in"]) == "43.4 %"
    assert shown(-0.00004, MEASURES["accuracy_in"], sign=True) == "0.0 %"
    assert shown(-2.421, MEASURES["politeness"]) == "−2.42" and shown(None, MEASURES["win"]) == "–"
