"""The second actor of an evaluation: the judges score what every contestant answered.

It runs under the same guard as a build: a sample on which the judges fail loses only its own numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import pyarrow as pa

from actors.base import PoolActor
from actors.commit import write_whole_shards
from actors.rows import Block, Row
from polite_flamingo.evaluation.judging import Answer, Judged, Judges, joined, judge, not_judged
from polite_flamingo.evaluation.responses import read_responses
from polite_flamingo.faults.journal import ShardJournal
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location, location


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """What a judging actor needs to know.

    Attributes:
        scoring: the models.
        out: the evaluation's folder.
        contestants: name -> place of its answers, with "{shard}" for the shard's name; a missing file holds none.
        identities: shard -> hash of what its numbers depend on; stored with them.
        by: whether results are grouped by task or by dataset.
    """

    scoring: ScoringConfig
    out: Location
    contestants: Mapping[str, str]
    identities: Mapping[str, str]
    by: Literal["task", "dataset"]


class JudgingActor(PoolActor):
    """Holds the judges; writes OUT/judged/SHARD.json."""

    name = "judging"
    reason: ClassVar[Reason] = "judging_failed"
    config: JudgingConfig
    model: Judges

    def load(self, config: JudgingConfig) -> Judges:
        """Load the judges."""
        return Judges(config.scoring)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge complete shards; return one row (of schema `FINISHED`) per shard."""
        return write_whole_shards(table, OutputLayout(root=self.config.out), self._write)

    def _write(self, block: Block) -> None:
        answers = {name: _answers(path, block.name) for name, path in self.config.contestants.items()}
        parts, failures = self._judge(block.rows, answers, self.journal.open(block.name))
        record = {
            "identity": self.config.identities[block.name],
            "unreadable": Counter(row.reason for row in block.rows if not isinstance(row, Sample)),
            "not_judged": failures,
            "judged": joined(parts).to_json(),
        }
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        (self.config.out / "judged" / f"{block.name}.json").put(text + "\n")

    def _judge(
        self, rows: Sequence[Row], answers: Mapping[str, Mapping[str, Answer]], note: ShardJournal
    ) -> tuple[list[Judged], dict[str, str]]:
        """Return each sample once, with or without numbers, and key -> reason for those without."""
        by, parts, failures = self.config.by, [], {}

        def work(samples: list[Sample]) -> Judged:
            return judge(samples, answers, self.model, by=by)

        for indices, found in self.guard.parts(work, rows, note):
            if isinstance(found, BadSample):
                [sample] = [row for row in (rows[index] for index in indices) if isinstance(row, Sample)]
                parts.append(not_judged(sample, answers, found.reason, by=by))
                failures[sample.key] = str(found)
            else:
                parts.append(found)
        return parts, failures


def _answers(address: str, shard: str) -> Mapping[str, Answer]:
    found = location(address.replace("{shard}", shard)).head()
    return _read(address.replace("{shard}", shard), found.tag) if found else {}


@lru_cache(maxsize=4)
def _read(address: str, tag: str) -> Mapping[str, Answer]:
    """Read a file of answers. One file may hold the answers to every shard, so it is cached until it changes."""
    return read_responses(location(address))
