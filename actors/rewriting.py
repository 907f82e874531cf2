"""The actor that rewrites: a thin shell around `Rewriter`."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import pyarrow as pa

from actors.base import ActorSettings, RowActor
from polite_flamingo.conversations import is_rewritten, with_texts
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.usage import Usage


class Rewrites(Protocol):
    """What the actor needs of a model."""

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> Sequence[Sequence[str | BadSample | None]]:
        """Return for each sample, in order, one text per turn, or why there is none; None for a turn without a part.

        Adds what it consumed to `usage`. Raises for what is not the sample's fault.
        """

    def metrics(self) -> Mapping[str, float]:
        """Return throughput and time lost so far; empty if nothing is measured."""


class RewriterActor(RowActor):
    """Holds one copy of the rewriter.

    After each block it writes its metrics to OUT/engine/HOST-PID-RANDOM.json: Ray ends actors without notice, so
    nothing can wait for a shutdown.
    """

    name = "rewriting"
    reason: ClassVar[Reason] = "rewriting_failed"
    model: Rewrites

    def __init__(self, config: RewriterConfig, settings: ActorSettings):
        super().__init__(config, settings)
        unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # containers repeat host and PID
        self._metrics = OutputLayout(root=settings.out).engine / f"{unique}.json"

    def load(self, config: RewriterConfig) -> Rewrites:
        """Load the rewriter."""
        from polite_flamingo.rewriters.flamingo import Rewriter

        return Rewriter(config)

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample that cannot be rewritten."""
        check_rewritable(sample)

    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Rewrite the responses."""
        texts = self.model.rewrite(samples, usage)
        return [with_texts(sample, found) for sample, found in zip(samples, texts, strict=True)]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process every row, then write the metrics."""
        processed = super().__call__(table)
        if metrics := self.model.metrics():
            write_atomically(self._metrics, json.dumps(metrics, indent=1) + "\n")
        return processed


def check_rewritable(sample: Sample) -> None:
    """Raise `BadSample` if a sample is already rewritten.

    Images are not checked here: the rewriter decodes each distinct image once and reports broken ones.
    """
    if is_rewritten(sample):
        raise BadSample("unsupported", f"{sample.key}: is already rewritten; give shards of raw annotations")
