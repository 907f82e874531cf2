"""A reward model as a judge: one number per answer, from the question and the answer alone.

It reads text, so it cannot tell whether an answer about a picture is correct; it is a judge to be audited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polite_flamingo.candidates import Rating
from polite_flamingo.conversations import asked
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.filters.models import scores_of
from polite_flamingo.preference.judges.base import with_ratings
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.usage import Usage


class RewardJudge:
    """Rates by a reward model. Args: model: `Politeness` or `ServedReward`."""

    name = "reward"

    def __init__(self, model: Any):
        self._model = model

    def rate(
        self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None
    ) -> list[Sample | BadSample]:
        """See `Judge.rate`."""
        pairs = [(asked(sample.turns[-1]), one.text) for sample in samples for one in sample.candidates]
        found = iter(scores_of(self._model, pairs, usage))
        return [self._rated(sample, [next(found) for _ in sample.candidates]) for sample in samples]

    def _rated(self, sample: Sample, rewards: Sequence[float | BadSample]) -> Sample | BadSample:
        ratings = []
        for reward in rewards:
            if isinstance(reward, BadSample):
                return BadSample("judging_failed", f"{sample.key}: {reward.detail}")
            if not math.isfinite(reward):
                return BadSample("judging_failed", f"{sample.key}: the reward model gives {reward}")
            ratings.append([Rating(judge=self.name, values={"reward": float(reward)})])
        return with_ratings(sample, ratings)
