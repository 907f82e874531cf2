"""The actor that rewrites: a thin shell around `Rewriter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import pyarrow as pa

from actors.stage import StageSettings, run_blocks
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.guard import Guard
from polite_flamingo.sample import BadSample, Sample


class Rewrites(Protocol):
    """What the actor needs of a model."""

    def rewrite(self, samples: Sequence[Sample]) -> Sequence[str | BadSample]:
        """One text a sample, in order, or why there is none."""


class RewriterActor:
    """Holds one copy of the rewriter and answers blocks of rows."""

    def __init__(self, config: RewriterConfig, settings: StageSettings):
        self._journal = settings.journal("rewriting")
        self._guard = Guard(
            reason="rewriting_failed",
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        with self._journal.loading(patience=settings.actors + 1):
            self._rewriter = self.load(config)

    def load(self, config: RewriterConfig) -> Rewrites:
        """The model. Importing it takes seconds, so the driver never does."""
        from polite_flamingo.flamingo.rewriter import Rewriter

        return Rewriter(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rewrite every sample; what fails becomes a quarantined row."""
        return run_blocks(table, self._guard, self._journal, self._work, check_rewritable)

    def _work(self, samples: list[Sample]) -> list[Sample | BadSample]:
        texts = self._rewriter.rewrite(samples)
        return [
            text if isinstance(text, BadSample) else replace(sample, rewritten=text)
            for sample, text in zip(samples, texts, strict=True)
        ]


def check_rewritable(sample: Sample) -> None:
    """Raise `BadSample` for what no rewriter should see: several turns, a rewritten text.

    Images are not looked at: the rewriter decodes each distinct one once, and tells of those that are broken.
    """
    if len(sample.turns) != 1:
        raise BadSample(
            "unsupported", f"{sample.key}: {len(sample.turns)} turns; only single-turn samples are rewritten"
        )
    if sample.rewritten is not None:
        raise BadSample("unsupported", f"{sample.key}: is already rewritten; give shards of raw annotations")
