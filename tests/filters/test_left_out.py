"""A profile may leave a filter out (null) rather than let a model judge what it does not know; everything says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from polite_flamingo.config import load
from polite_flamingo.evaluation.judging import Judges
from polite_flamingo.filters.models import ScoringConfig
from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds, first_failure
from polite_flamingo.sample import Sample, Turn
from polite_flamingo.selection.select_shard import select_shard
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.fingerprint import model_fingerprints

NOTHING = ScoringConfig(sts=None, nli=None, clip=None, reward=None)

CAPTION = Sample(
    key="cap/val/1", dataset="cap", task="captioning", turns=(Turn(instruction="Describe it.", response="a dog"),),
    rewritten="The picture shows a dog on a beach.",
)  # fmt: skip
ANSWER = dataclasses.replace(CAPTION, key="vqa/val/1", dataset="vqa", task="vqa")


def test_a_text_is_judged_by_what_is_left_and_its_verdicts_say_what_was_not() -> None:
    caption, answer = Scorer(NOTHING).score([CAPTION, ANSWER])
    assert isinstance(caption, dict), "a caption without its picture needs no CLIPScore here"
    assert isinstance(answer, dict)
    assert caption["not_scored"] == {"reward": "no model", "sts": "no model", "clipscore": "no model"}
    assert answer["not_scored"] == {"reward": "no model", "nli": "no model"}
    json.dumps([caption, answer], allow_nan=False)
    verdicts = apply_thresholds(dataclasses.replace(CAPTION, scores=caption), Thresholds(clip_single=True))
    said = {verdict.filter: verdict.reason for verdict in verdicts if verdict.reason}
    assert said == dict.fromkeys(("sts", "clip", "reward"), "does not apply: no model")
    assert first_failure(verdicts) is None


def test_rules_still_reject_and_the_counts_say_which_filters_are_missing() -> None:
    short = dataclasses.replace(ANSWER, key="vqa/val/2", rewritten="A dog.")
    rows = [CAPTION, ANSWER, short]
    scored = [
        dataclasses.replace(row, scores=scores)
        for row, scores in zip(rows, Scorer(NOTHING).score(rows), strict=True)
        if isinstance(scores, dict)
    ]
    selection = select_shard(scored, shard="x", thresholds=Thresholds())
    total = selection.statistics.total()
    assert (total.kept, dict(total.rejected)) == (2, {"too_short": 1})
    missing = {"reward: no model": 3, "nli: no model": 2, "sts: no model": 1, "clipscore: no model": 1}
    assert total.not_scored == missing


def test_annotations_as_they_are_are_not_said_to_lack_a_comparison() -> None:
    (scores,) = Scorer(NOTHING, compare=False).score([CAPTION])
    assert isinstance(scores, dict)
    assert scores["not_scored"] == {"reward": "no model", "clipscore": "no model"}
    assert scores["same_text"] is None


def test_a_profile_writes_null_and_no_such_model_is_looked_for(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("rewriter: {kind: none}\nscoring: {nli: null, clip: null, reward: null}\n")
    config = load(BuildConfig, str(profile), {"input": "in", "out": "out"})
    assert config.scoring.nli is None
    assert not config.scoring.all_served
    assert "reward" not in model_fingerprints(config.rewriter, config.scoring)
    assert NOTHING.all_served


def test_an_evaluation_needs_all_of_its_judges() -> None:
    with pytest.raises(ValueError, match=r"scoring\.nli is null"):
        Judges(NOTHING)
