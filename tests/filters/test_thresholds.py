from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.filters.nli import label
from polite_flamingo.filters.thresholds import (
    CHECKS,
    FILTERS,
    FILTERS_OF_TASK,
    REJECTIONS,
    Thresholds,
    apply_thresholds,
    first_failure,
    nli_margin,
)
from polite_flamingo.sample import TASKS, Image, Sample, Turn
from tests.support.reference import golden

GOOD: dict[str, Any] = {
    "words": 12, "characters": 70, "same_text": False, "rouge_l": 0.4, "repetition": 0.0, "reward_raw": -2.0,
    "reward": 1.0, "sts": 0.8, "clip_paragraphs": [25.0, 21.0], "nli": [-3.0, 4.0, 0.1],
}  # fmt: skip


def sample(task: str = "captioning", **changed: Any) -> Sample:
    return Sample(
        key="coco/train/1",
        dataset="coco",
        task=task,
        turns=(Turn(instruction="<image>Describe the image.", response="a dog"),),
        images=(Image(extension="jpg", data=b"x"),),
        rewritten="There is a dog.\n\nIt runs.",
        scores={**GOOD, **changed},
    )


def reason(task: str = "captioning", thresholds: Thresholds | None = None, **changed: Any) -> str:
    failure = first_failure(apply_thresholds(sample(task, **changed), thresholds or Thresholds()))
    return failure.reason if failure else ""


def test_the_papers_thresholds_are_the_defaults() -> None:
    stated = golden("metrics_golden.json")["thresholds"]
    assert Thresholds().sts == stated["sts_keep_if_ge"]
    assert Thresholds().clip == stated["clip_paragraph_keep_if_ge"]
    assert stated["nli_drop_label"] == "contradiction" and Thresholds().nli_margin == 0


def test_every_task_has_its_filters_in_the_papers_order() -> None:
    assert set(FILTERS_OF_TASK) == set(TASKS)
    order = [FILTERS.index(check.filter) for check in CHECKS]
    assert order == sorted(order)


@pytest.mark.parametrize("task", TASKS)
def test_a_good_sample_is_kept_by_every_filter_of_its_task(task: str) -> None:
    verdicts = apply_thresholds(sample(task), Thresholds())
    assert all(verdict.keep and verdict.reason == "" and verdict.score is not None for verdict in verdicts)
    filters = {check.name: check.filter for check in CHECKS}
    assert {filters[verdict.filter] for verdict in verdicts} == set(FILTERS_OF_TASK[task])


@pytest.mark.parametrize(
    ("task", "changed", "expected"),
    [
        ("vqa", {"words": 2}, "too_short"),
        ("vqa", {"characters": 7}, "too_short"),
        ("vqa", {"words": 601}, "too_long"),
        ("vqa", {"characters": 5001}, "too_long"),
        ("vqa", {"rouge_l": 0.95}, "unchanged"),
        ("vqa", {"same_text": True, "rouge_l": 0.5}, "unchanged"),
        ("vqa", {"repetition": 0.5}, "repetition"),
        ("captioning", {"sts": 0.3999}, "sts_low"),
        ("captioning", {"sts": 0.40}, ""),
        ("vqa", {"sts": 0.1}, ""),
        ("captioning", {"clip_paragraphs": [16.9999, 3.0]}, "clip_low"),
        ("captioning", {"clip_paragraphs": [3.0, 17.0]}, ""),
        ("captioning", {"clip_paragraphs": [3.0]}, ""),
        ("classification", {"clip_paragraphs": [1.0, 1.0]}, ""),
        ("vqa", {"nli": [3.0, 1.0, 2.0]}, "nli_contradiction"),
        ("captioning", {"nli": [3.0, 1.0, 2.0]}, ""),
    ],
)
def test_each_filter_cuts_where_the_threshold_says(task: str, changed: dict[str, Any], expected: str) -> None:
    assert reason(task, **changed) == expected


def test_a_single_paragraph_is_judged_by_clip_only_on_request() -> None:
    assert reason(clip_paragraphs=[3.0]) == ""
    assert reason(clip_paragraphs=[3.0], thresholds=Thresholds(clip_single=True)) == "clip_low"


def test_the_first_failure_is_the_reason_but_all_verdicts_are_given() -> None:
    verdicts = apply_thresholds(sample(words=1, sts=0.1, clip_paragraphs=[1.0, 2.0]), Thresholds())
    assert first_failure(verdicts) == verdicts[0]
    assert [verdict.reason for verdict in verdicts if not verdict.keep] == ["too_short", "sts_low", "clip_low"]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, "0.9", True])
@pytest.mark.parametrize("name", ["words", "rouge_l", "repetition", "sts", "clip_paragraphs", "reward", "reward_raw"])
def test_what_has_no_number_is_never_kept(name: str, missing: object) -> None:
    assert reason(**{name: missing}) == "unscored"


def test_a_sample_that_was_never_scored_is_not_kept() -> None:
    never = dataclasses.replace(sample(), scores={})
    assert {verdict.reason for verdict in apply_thresholds(never, Thresholds())} == {"unscored"}


def test_one_unscored_paragraph_or_logit_leaves_the_sample_unscored() -> None:
    assert reason(clip_paragraphs=[25.0, None]) == "unscored"
    assert reason("vqa", nli=[1.0, None, 2.0]) == "unscored"
    assert reason("vqa", nli=[1.0, 2.0]) == "unscored"


def test_nli_decides_as_the_reference() -> None:
    decisions = golden("metrics_golden.json")["nli_decisions"]
    assert {case["label"] for case in decisions} == {"contradiction", "entailment", "neutral"}
    for case in decisions:
        assert label(case["logits"]) == case["label"]
        assert reason("vqa", nli=case["logits"]) == ("nli_contradiction" if case["label"] == "contradiction" else "")


@settings(deadline=None)
@given(st.lists(st.integers(-90_000, 90_000), min_size=3, max_size=3))
def test_the_margin_is_positive_exactly_when_contradiction_is_not_the_first_maximum(units: list[int]) -> None:
    logits = [unit / 10_000 for unit in units]
    assert (nli_margin(logits) > 0) == (label(logits) != "contradiction")


def test_every_reason_a_check_gives_is_a_known_rejection() -> None:
    assert {check.reason for check in CHECKS} | {"unscored", "duplicate_key", "turn_failed"} == set(REJECTIONS)
    assert {check.name for check in CHECKS} <= set(Thresholds.__dataclass_fields__)
