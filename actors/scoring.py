"""The actor that scores: a thin shell around `Scorer`, which holds every filter's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from actors.stage import StageSettings, run_blocks
from polite_flamingo.faults.guard import Guard
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import BadSample, Sample


class Scores(Protocol):
    """What the actor needs of the models."""

    def score(self, samples: Sequence[Sample]) -> Sequence[Mapping[str, Any] | BadSample]:
        """The scores of each sample, in order, or why there are none."""


class ScoringActor:
    """Holds one copy of each scoring model and answers blocks of rewritten rows."""

    def __init__(self, config: ScoringConfig, settings: StageSettings):
        settings.check()
        self._journal = settings.journal("scoring")
        self._guard = Guard(
            reason="scoring_failed",
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        with self._journal.loading(patience=settings.actors + 1):
            self._scorer = self.load(config)

    def load(self, config: ScoringConfig) -> Scores:
        """The models. Importing them takes seconds, so the driver never does."""
        from polite_flamingo.filters.scorer import Scorer

        return Scorer(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score every sample; what fails becomes a quarantined row."""
        return run_blocks(table, self._guard, self._journal, self._work)

    def _work(self, samples: list[Sample]) -> list[Sample | BadSample]:
        found = self._scorer.score(samples)
        return [
            scores if isinstance(scores, BadSample) else replace(sample, scores={**sample.scores, **scores})
            for sample, scores in zip(samples, found, strict=True)
        ]
