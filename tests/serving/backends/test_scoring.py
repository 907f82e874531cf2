"""Requests that are scored together do not share their fate: only the texts at fault have no scores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from polite_flamingo.faults.bisection import ModelBroken
from polite_flamingo.sample import BadSample, Sample, Turn
from serving.backends.scoring import BatchingScorer


def sample(text: str) -> Sample:
    return Sample(key=f"k/{text}", dataset="d", task="text", turns=(Turn(instruction="Say it.", response=text),))


class Models:
    """Raise on a text that says so."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        self.calls.append([one.response for one in samples])
        if any("poison" in one.response for one in samples):
            raise RuntimeError(f"cannot read {samples[0].response}")
        return [{"words": len(one.response)} for one in samples]


def scored(scoring: BatchingScorer, *requests: Sequence[str]) -> list[Any]:
    """What each request gets, of those that come at once."""

    async def ask() -> list[Any]:
        asked = [scoring.score([sample(text) for text in texts]) for texts in requests]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def test_one_request_s_poison_is_not_another_s(caplog: pytest.LogCaptureFixture) -> None:
    models = Models()
    scoring = BatchingScorer(models)
    with caplog.at_level(logging.ERROR, "serving.failures"):
        found = scored(scoring, ["a", "bb"], ["ccc", "poison of a client", "dddd"], ["eeeee"], [])
    assert models.calls[0] == ["a", "bb", "ccc", "poison of a client", "dddd", "eeeee"], "who waits goes together"
    assert found[0] == [{"words": 1}, {"words": 2}] and found[2] == [{"words": 5}]
    before, bad, after = found[1]
    assert (before, after) == ({"words": 3}, {"words": 4})
    assert isinstance(bad, BadSample) and bad.reason == "scoring_failed"
    assert found[3] == [] and scoring.healthy
    assert "RuntimeError" in caplog.text and "of a client" not in caplog.text, "a log says where, not what"


def test_models_that_fail_on_everything_are_given_up_until_they_work() -> None:
    scoring = BatchingScorer(Models(), failures_in_a_row=3)
    [[alone]] = scored(scoring, ["poison"])
    assert isinstance(alone, BadSample) and scoring.healthy, "it may have been the text"
    found = scored(scoring, ["poison 1", "poison 2"], ["poison 3"])
    assert all(isinstance(one, ModelBroken) for one in found) and not scoring.healthy
    assert scored(scoring, ["fine"]) == [[{"words": 4}]] and scoring.healthy
