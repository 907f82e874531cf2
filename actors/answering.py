"""The first actor of an evaluation: a checkpoint answers, and its answers are written shard by shard."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from actors.commit import write_whole_shards
from actors.rewriting import RewriterActor, Rewrites
from actors.rows import Block
from polite_flamingo.endpoints.answers import Unfinished, ending
from polite_flamingo.evaluation.judging import Answer, first_turn
from polite_flamingo.evaluation.responses import write_responses
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.probe import Probe
from polite_flamingo.usage import Usage


class AnsweringActor(RewriterActor):
    """Holds a model that answers by itself: it sees the instruction and the images, not the annotation.

    An answer travels as the sample's `rewritten`; if it was cut off, `finish_reason` in its provenance says so.
    """

    name = "answering"
    reason: ClassVar[Reason] = "answering_failed"

    def load(self, config: RewriterConfig) -> Rewrites:
        """Load the model, with the chat prompt."""
        from polite_flamingo.rewriters.flamingo import Rewriter, chatting

        return Rewriter(config, prompt=chatting)

    def check(self, sample: Sample) -> None:
        """Accept every sample."""

    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Answer the first turn of each sample."""
        answered = super().work([replace(first_turn(sample), rewritten=None) for sample in samples], usage)
        return [_with_finish_reason(one) if isinstance(one, Sample) else one for one in answered]


def _with_finish_reason(sample: Sample) -> Sample:
    """Note in the provenance that an answer was cut off: only plain strings travel between actors."""
    answer = sample.rewritten
    if not isinstance(answer, Unfinished):
        return sample
    return replace(sample, rewritten=str(answer), provenance={**sample.provenance, "finish_reason": answer.why})


def record_answers(table: pa.Table, folder: Location, probe: Probe | None = None) -> pa.Table:
    """Write FOLDER/SHARD.jsonl for each complete shard; return one row (of schema `FINISHED`) per shard.

    Raises:
        PathUnavailable: this machine does not see `probe`.
    """
    if probe is not None:
        probe.check()
    layout = OutputLayout(root=folder)

    def write(block: Block) -> None:
        write_responses(layout.root / f"{block.name}.jsonl", _answers(block))

    return write_whole_shards(table, layout, write)


def _answers(block: Block) -> dict[str, Answer]:
    """Key -> answer, or why there is none. A row without a key could not be read, so nothing about it is judged."""
    answers: dict[str, Answer] = {}
    for row in block.rows:
        if isinstance(row, Sample):
            answers[row.key] = ending(row.rewritten or "", row.provenance.get("finish_reason"))
        elif row.key:
            answers.setdefault(row.key, BadSample(row.reason, row.detail))  # type: ignore[arg-type]
    return answers
