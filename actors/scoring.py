"""The actor that scores: a thin shell around `Scorer`, which holds the models of all filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol

from actors.base import RowActor
from actors.rows import Block
from polite_flamingo.conversations import joined, parts_of
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.faults.guard import Work
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.usage import Usage


class Scores(Protocol):
    """What the actor needs of the models."""

    def score(
        self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None
    ) -> Sequence[Mapping[str, Any] | BadSample]:
        """Return the scores of each single-turn sample, in order, or why there are none.

        Adds what servers say it cost to `usage`, and what the judge answered to `answers`.
        """


class ScoringActor(RowActor):
    """Holds one copy of each scoring model."""

    name = "scoring"
    reason: ClassVar[Reason] = "scoring_failed"
    model: Scores

    def load(self, config: ScoringConfig) -> Scores:
        """Load the scoring models."""
        from polite_flamingo.filters.scorer import Scorer

        return Scorer(config)

    @contextmanager
    def working_on(self, block: Block, usage: Usage) -> Iterator[Work]:
        """Give `work`; what the judge answers is kept until the shard is committed."""
        if getattr(self.config, "judge", None) is None:
            yield partial(self.work, usage=usage)
            return
        with AnswerStore(OutputLayout(root=self.settings.out).answers, block.name) as answers:
            score = partial(self.model.score, usage=usage, answers=answers)
            yield lambda samples: _with_scores(samples, score)

    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Score rewritten samples."""
        return _with_scores(samples, partial(self.model.score, usage=usage))


class RawScoringActor(ScoringActor):
    """Scores annotations that were not rewritten: nothing is compared with them."""

    def load(self, config: ScoringConfig) -> Scores:
        """Load the models that judge a text by itself."""
        from polite_flamingo.filters.scorer import Scorer

        return Scorer(config, compare=False)


def _with_scores(
    samples: Sequence[Sample], score: Callable[[Sequence[Sample]], Sequence[Mapping[str, Any] | BadSample]]
) -> list[Sample | BadSample]:
    """Score samples, conversations turn by turn; turns without a text stay as they are."""
    parts = [
        {n: part for n, part in parts_of(sample).items() if len(sample.turns) == 1 or part.rewritten is not None}
        for sample in samples
    ]
    found = iter(score([part for one in parts for part in one.values()]))
    return [
        joined(sample, {number: _scored(part, next(found)) for number, part in one.items()})
        for sample, one in zip(samples, parts, strict=True)
    ]


def _scored(part: Sample, scores: Mapping[str, Any] | BadSample) -> Sample | BadSample:
    return scores if isinstance(scores, BadSample) else replace(part, scores={**part.scores, **scores})
