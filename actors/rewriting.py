"""The actor that rewrites: a thin shell around a rewriter of any kind."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from actors.base import ActorSettings, RowActor
from actors.rows import Block
from polite_flamingo.conversations import is_rewritten, with_texts
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.faults.guard import Work
from polite_flamingo.rewriters.endpoint import EndpointRewriter
from polite_flamingo.rewriters.none import RawRewriter
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

    def __init__(self, config: Any, settings: ActorSettings):
        super().__init__(config, settings)
        unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # containers repeat host and PID
        self._layout = OutputLayout(root=settings.out)
        self._metrics = self._layout.engine / f"{unique}.json"

    def load(self, config: Any) -> Rewrites:
        """Load the rewriter that a `RewriterSection` describes."""
        if config.kind == "none":
            return RawRewriter()
        if config.kind == "endpoint":
            return EndpointRewriter(config.endpoint)
        if config.kind == "vllm":
            from polite_flamingo.rewriters.vllm import VllmRewriter

            return VllmRewriter(config.vllm)
        from polite_flamingo.rewriters.flamingo import Rewriter

        return Rewriter(config.of_flamingo())

    @contextmanager
    def working_on(self, block: Block, usage: Usage) -> Iterator[Work]:
        """Give `work`; what an endpoint answers is kept until the shard is committed."""
        if not isinstance(self.model, EndpointRewriter):
            yield partial(self.work, usage=usage)
            return
        with AnswerStore(self._layout.answers, block.name) as answers:
            rewrite = partial(self.model.rewrite, usage=usage, answers=answers)
            yield lambda samples: _with_texts(samples, rewrite(samples))

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample that cannot be rewritten."""
        check_rewritable(sample)

    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Rewrite the responses."""
        return _with_texts(samples, self.model.rewrite(samples, usage))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process every row, then write the metrics."""
        processed = super().__call__(table)
        if metrics := self.model.metrics():
            write_atomically(self._metrics, json.dumps(metrics, indent=1) + "\n")
        return processed


def _with_texts(
    samples: Sequence[Sample], texts: Sequence[Sequence[str | BadSample | None]]
) -> list[Sample | BadSample]:
    return [with_texts(sample, found) for sample, found in zip(samples, texts, strict=True)]


def check_rewritable(sample: Sample) -> None:
    """Raise `BadSample` if a sample is already rewritten.

    Images are not checked here: the rewriter decodes each distinct image once and reports broken ones.
    """
    if is_rewritten(sample):
        raise BadSample("unsupported", f"{sample.key}: is already rewritten; give shards of raw annotations")
