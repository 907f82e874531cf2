"""The actor that rates answers: a thin shell around a judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from actors.base import RowActor
from actors.rows import Block
from polite_flamingo.cost import Prices
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.faults.guard import Work
from polite_flamingo.preference.judges.base import Judge
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.judges.servers import Budget
from polite_flamingo.preference.rating import check_rateable, load_judge, spent_so_far
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.usage import Usage


@dataclass(frozen=True, kw_only=True)
class RaterConfig:
    """What an actor needs to build its judge.

    Attributes:
        judge: of the profile.
        prices: of its tokens.
        named: how a chat model has named itself; "" if it has not said.
    """

    judge: JudgeSection
    prices: Prices
    named: str = ""


class RatingActor(RowActor):
    """Holds one judge. Where there is a limit of cost, the job has one actor only, so that it can count."""

    name = "rating"
    reason: ClassVar[Reason] = "judging_failed"
    config: RaterConfig
    model: Judge

    def load(self, config: RaterConfig) -> Judge:
        """Load the judge; what it has cost so far is read from the output folder if there is a limit."""
        limit = config.judge.max_cost
        spent = 0.0 if limit is None else spent_so_far(OutputLayout(root=self.settings.out), config.prices)
        return load_judge(config.judge, Budget(config.prices, limit, spent), config.named)

    @contextmanager
    def working_on(self, block: Block, usage: Usage) -> Iterator[Work]:
        """Give `work`; what a chat model answers is kept until the shard is committed."""
        if self.config.judge.kind != "endpoint":
            yield partial(self.work, usage=usage)
            return
        with AnswerStore(OutputLayout(root=self.settings.out).answers, block.name) as answers:
            yield partial(self.work, usage=usage, answers=answers)

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample without answers, or with the judge's own."""
        check_rateable(sample, self.config.judge, self.config.named)

    def work(self, samples: list[Sample], usage: Usage, answers: AnswerStore | None = None) -> list[Sample | BadSample]:
        """Add ratings to each sample's candidates."""
        return self.model.rate(samples, usage, answers)
