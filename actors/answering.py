"""The actors of an evaluation: one lets a checkpoint answer, one judges what all contestants answered.

Answers are put on disk shard by shard as they come, so that a contestant is asked once for all (`record_answers`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa

from actors.commit import whole_shard
from actors.rewriting import RewriterActor, Rewrites
from actors.rows import blocks
from polite_flamingo import journal
from polite_flamingo.evaluation.judging import Answer, Judges, first_turn, joined, judge
from polite_flamingo.evaluation.responses import read_responses, write_responses
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.ledger import OutputLayout
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.shards import write_atomically

RECORDED = pa.schema([("name", pa.string()), ("rows_in", pa.int64())])


class AnsweringActor(RewriterActor):
    """Holds a model that answers by itself: it sees the instruction and the images, not the annotation.

    An answer travels as the sample's `rewritten`.
    """

    reason: Reason = "answering_failed"

    def load(self, config: RewriterConfig) -> Rewrites:
        """The model, asked with the chat prompt."""
        from polite_flamingo.flamingo.rewriter import Rewriter, chatting

        return Rewriter(config, prompt=chatting)

    def check(self, sample: Sample) -> None:
        """Everything may be answered."""

    def _work(self, samples: list[Sample]) -> list[Sample | BadSample]:
        return super()._work([replace(first_turn(sample), rewritten=None) for sample in samples])


def record_answers(table: pa.Table, folder: str) -> pa.Table:
    """Write FOLDER/SHARD.jsonl of each whole shard; return one row (of schema `RECORDED`) a shard."""
    layout = OutputLayout(root=Path(folder))
    done = []
    for block in blocks(table):
        whole = whole_shard(layout, block)
        if whole is not None:
            answers: dict[str, Answer] = {}
            for row in whole.rows:
                if isinstance(row, Sample):
                    answers[row.key] = row.rewritten or ""
                elif row.key:  # else what could not be read: a shard's record, and no sample that could be judged
                    answers.setdefault(row.key, BadSample(row.reason, row.detail))  # type: ignore[arg-type]
            write_responses(layout.root / f"{whole.name}.jsonl", answers)
            journal.forget(layout.journal, whole.name)
            shutil.rmtree(layout.parts / whole.name, ignore_errors=True)
            done.append({"name": whole.name, "rows_in": whole.shard_rows})
    return pa.Table.from_pylist(done, schema=RECORDED)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What a judging actor needs to know.

    Attributes:
        scoring: the models.
        out: the evaluation's folder.
        contestants: name -> files that hold its answers, "{shard}" for the shard's name; a missing one holds none.
        identities: shard -> what its numbers depend on; stored with them.
        by: what the samples are summed under.
        rows_per_call: rows judged together.
    """

    scoring: ScoringConfig
    out: str
    contestants: Mapping[str, str]
    identities: Mapping[str, str]
    by: Literal["task", "dataset"]
    rows_per_call: int


class JudgingActor:
    """Holds the judges; writes OUT/judged/SHARD.json."""

    def __init__(self, judging: Judging):
        self._judging = judging
        self._judges = Judges(judging.scoring)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge whole shards; returns one row (of schema `RECORDED`) a shard."""
        judging, done = self._judging, []
        for block in blocks(table):
            whole = whole_shard(OutputLayout(root=Path(judging.out)), block)
            if whole is None:
                continue
            samples = [row for row in whole.rows if isinstance(row, Sample)]
            unreadable: dict[str, int] = {}
            for row in whole.rows:
                if not isinstance(row, Sample):
                    unreadable[row.reason] = unreadable.get(row.reason, 0) + 1
            answers = {name: _answers(path, whole.name) for name, path in judging.contestants.items()}
            size = judging.rows_per_call
            parts = [
                judge(samples[start : start + size], answers, self._judges, by=judging.by)
                for start in range(0, len(samples), size)
            ]
            record = {
                "identity": judging.identities[whole.name],
                "unreadable": unreadable,
                "judged": joined(parts).to_json(),
            }
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
            write_atomically(Path(judging.out) / "judged" / f"{whole.name}.json", text + "\n")
            done.append({"name": whole.name, "rows_in": whole.shard_rows})
        return pa.Table.from_pylist(done, schema=RECORDED)


def _answers(path: str, shard: str) -> Mapping[str, Answer]:
    file = Path(path.replace("{shard}", shard))
    return _read(str(file), file.stat().st_mtime_ns) if file.exists() else {}


@lru_cache(maxsize=4)
def _read(path: str, changed: int) -> Mapping[str, Answer]:
    """A recorded file may hold the answers to every shard: it is read once, unless it has changed."""
    return read_responses(Path(path))
