"""The actor of an evaluation that asks a checkpoint how likely it finds each choice of multiple-choice questions.

It runs under the same guard as a build: a question on which the model fails loses only its own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from actors.base import PoolActor
from actors.commit import write_whole_shards
from actors.rows import Block
from polite_flamingo.evaluation.choice_records import ChoiceRecords
from polite_flamingo.evaluation.choices import Choices, ChoicesConfig, choices_of
from polite_flamingo.evaluation.judging import first_turn
from polite_flamingo.evaluation.multiple_choice import AnswerScorer, Scored, score_choices
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class ChoosingConfig:
    """What a choosing actor needs to know.

    Attributes:
        model: the contestant.
        choices: how choices are found and compared.
        ratings: what the contestant's prompts ask for (`contestants.wanted_by`).
        folder: where to write SHARD.json.
        identities: shard -> hash of what its numbers depend on; stored with them.
    """

    model: RewriterConfig
    choices: ChoicesConfig
    ratings: Mapping[str, float]
    folder: Location
    identities: Mapping[str, str]


class ChoosingActor(PoolActor):
    """Holds a model that scores choices; writes FOLDER/SHARD.json."""

    name = "choosing"
    reason: ClassVar[Reason] = "answering_failed"
    config: ChoosingConfig
    model: AnswerScorer

    def load(self, config: ChoosingConfig) -> AnswerScorer:
        """Load the model."""
        from polite_flamingo.evaluation.answer_scorer import FlamingoScorer

        return FlamingoScorer(config.model)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score complete shards; return one row (of schema `FINISHED`) per shard."""
        return write_whole_shards(table, OutputLayout(root=self.config.folder), self._write)

    def _write(self, block: Block) -> None:
        records = ChoiceRecords(identity=self.config.identities[block.name])
        questions: dict[str, Choices] = {}
        for row in block.rows:
            try:
                if isinstance(row, Sample) and (found := choices_of(first_turn(row), self.config.choices.field)):
                    questions[row.key] = found
            except BadSample as bad:
                records.refused[row.key] = bad

        def work(samples: list[Sample]) -> list[Scored]:
            return score_choices([questions[sample.key] for sample in samples], self.model, by, self.config.ratings)

        by = self.config.choices.asked_by
        asked = [question.sample for question in questions.values()]
        for indices, scored in self.guard.parts(work, asked, self.journal.open(block.name)):
            for place, index in enumerate(indices):
                key = asked[index].key
                records.options[key] = questions[key].options
                records.scored[key] = scored if isinstance(scored, BadSample) else scored[place]
        (self.config.folder / f"{block.name}.json").put(records.to_json())
