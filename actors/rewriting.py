"""The actor that rewrites: a thin shell around `Rewriter`."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from actors.stage import StageSettings, run_blocks
from polite_flamingo.faults.guard import Guard
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.shards import write_atomically


class Rewrites(Protocol):
    """What the actor needs of a model."""

    def rewrite(self, samples: Sequence[Sample]) -> Sequence[str | BadSample]:
        """One text a sample, in order, or why there is none."""

    def metrics(self) -> Mapping[str, float]:
        """What it has done so far, how fast, and what time was lost; empty where nothing is counted."""


class RewriterActor:
    """Holds one copy of the rewriter and answers blocks of rows.

    After each block its figures so far are in OUT/engine/HOST-PID-RANDOM.json: Ray ends actors without a word, so
    nothing can be left to their end.
    """

    reason: Reason = "rewriting_failed"
    """Of a row on which the model raised."""

    def __init__(self, config: RewriterConfig, settings: StageSettings):
        settings.check()
        self._journal = settings.journal("rewriting")
        self._guard = Guard(
            reason=self.reason,
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        mine = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # containers repeat the first two
        self._figures = OutputLayout(root=Path(settings.out)).engine / f"{mine}.json"
        with self._journal.loading(patience=settings.actors + 1):
            self._rewriter = self.load(config)

    def load(self, config: RewriterConfig) -> Rewrites:
        """The model. Importing it takes seconds, so the driver never does."""
        from polite_flamingo.rewriters.flamingo import Rewriter

        return Rewriter(config)

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for what the model should not see."""
        check_rewritable(sample)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rewrite every sample; what fails becomes a quarantined row."""
        answered = run_blocks(table, self._guard, self._journal, self._work, self.check)
        if figures := self._rewriter.metrics():
            write_atomically(self._figures, json.dumps(figures, indent=1) + "\n")
        return answered

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
