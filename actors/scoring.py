"""The actor that scores: a thin shell around `Scorer`, which holds the models of all filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from actors.base import RowActor
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import BadSample, Reason, Sample


class Scores(Protocol):
    """What the actor needs of the models."""

    def score(self, samples: Sequence[Sample]) -> Sequence[Mapping[str, Any] | BadSample]:
        """Return the scores of each sample, in order, or why there are none."""


class ScoringActor(RowActor):
    """Holds one copy of each scoring model."""

    name = "scoring"
    reason: ClassVar[Reason] = "scoring_failed"
    model: Scores

    def load(self, config: ScoringConfig) -> Scores:
        """Load the scoring models."""
        from polite_flamingo.filters.scorer import Scorer

        return Scorer(config)

    def work(self, samples: list[Sample]) -> list[Sample | BadSample]:
        """Score rewritten samples."""
        found = self.model.score(samples)
        return [
            scores if isinstance(scores, BadSample) else replace(sample, scores={**sample.scores, **scores})
            for sample, scores in zip(samples, found, strict=True)
        ]
