"""The actors of an evaluation: one lets a checkpoint answer, one judges what all contestants answered.

Answers are put on disk shard by shard as they come, so that a contestant is asked once for all (`record_answers`).
Both run under the guard of builds: a sample that the judges cannot take costs its own numbers only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa

from actors.commit import whole_shard
from actors.rewriting import RewriterActor, Rewrites
from actors.rows import blocks
from actors.stage import StageSettings
from polite_flamingo.endpoints.answers import Unfinished, ending
from polite_flamingo.evaluation.judging import Answer, Judged, Judges, first_turn, joined, judge, not_judged
from polite_flamingo.evaluation.responses import read_responses, write_responses
from polite_flamingo.faults.guard import Guard
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import BadSample, Quarantined, Reason, Sample
from polite_flamingo.storage import journal
from polite_flamingo.storage.journal import ShardJournal
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.shards import write_atomically
from polite_flamingo.storage.visibility import Probe

RECORDED = pa.schema([("name", pa.string()), ("rows_in", pa.int64())])


class AnsweringActor(RewriterActor):
    """Holds a model that answers by itself: it sees the instruction and the images, not the annotation.

    An answer travels as the sample's `rewritten`, and as `finish_reason` in its provenance that it was cut.
    """

    reason: Reason = "answering_failed"

    def load(self, config: RewriterConfig) -> Rewrites:
        """The model, asked with the chat prompt."""
        from polite_flamingo.rewriters.flamingo import Rewriter, chatting

        return Rewriter(config, prompt=chatting)

    def check(self, sample: Sample) -> None:
        """Everything may be answered."""

    def _work(self, samples: list[Sample]) -> list[Sample | BadSample]:
        answered = super()._work([replace(first_turn(sample), rewritten=None) for sample in samples])
        return [_noted(one) if isinstance(one, Sample) else one for one in answered]


def _noted(sample: Sample) -> Sample:
    """An answer that did not come to its end says so in the provenance: only plain texts travel between actors."""
    answer = sample.rewritten
    if not isinstance(answer, Unfinished):
        return sample
    return replace(sample, rewritten=str(answer), provenance={**sample.provenance, "finish_reason": answer.why})


def record_answers(table: pa.Table, folder: str, probe: Probe | None = None) -> pa.Table:
    """Write FOLDER/SHARD.jsonl of each whole shard; return one row (of schema `RECORDED`) a shard.

    Raises:
        OutOfReach: this machine does not see `probe`.
    """
    if probe is not None:
        probe.check()
    layout = OutputLayout(root=Path(folder))
    done = []
    for block in blocks(table):
        whole = whole_shard(layout, block)
        if whole is not None:
            answers: dict[str, Answer] = {}
            for row in whole.rows:
                if isinstance(row, Sample):
                    answers[row.key] = ending(row.rewritten or "", row.provenance.get("finish_reason"))
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
    """

    scoring: ScoringConfig
    out: str
    contestants: Mapping[str, str]
    identities: Mapping[str, str]
    by: Literal["task", "dataset"]


class JudgingActor:
    """Holds the judges; writes OUT/judged/SHARD.json."""

    def __init__(self, judging: Judging, settings: StageSettings):
        settings.check()
        self._judging = judging
        self._journal = settings.journal("judging")
        self._guard = Guard(
            reason="judging_failed",
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        with self._journal.loading(patience=settings.actors + 1):
            self._judges = self.load(judging.scoring)

    def load(self, config: ScoringConfig) -> Judges:
        """The models."""
        return Judges(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge whole shards; returns one row (of schema `RECORDED`) a shard."""
        judging, layout, done = self._judging, OutputLayout(root=Path(self._judging.out)), []
        for block in blocks(table):
            whole = whole_shard(layout, block)
            if whole is None:
                continue
            unreadable: dict[str, int] = {}
            for row in whole.rows:
                if not isinstance(row, Sample):
                    unreadable[row.reason] = unreadable.get(row.reason, 0) + 1
            answers = {name: _answers(path, whole.name) for name, path in judging.contestants.items()}
            parts, failures = self._judged(whole.rows, answers, self._journal.open(whole.name))
            record = {
                "identity": judging.identities[whole.name],
                "unreadable": unreadable,
                "not_judged": failures,
                "judged": joined(parts).to_json(),
            }
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
            write_atomically(Path(judging.out) / "judged" / f"{whole.name}.json", text + "\n")
            journal.forget(layout.journal, whole.name)
            shutil.rmtree(layout.parts / whole.name, ignore_errors=True)
            done.append({"name": whole.name, "rows_in": whole.shard_rows})
        return pa.Table.from_pylist(done, schema=RECORDED)

    def _judged(
        self, rows: Sequence[Sample | Quarantined], answers: Mapping[str, Mapping[str, Answer]], note: ShardJournal
    ) -> tuple[list[Judged], dict[str, str]]:
        """Every sample once, with its numbers or without; why the latter, by their keys."""
        by, parts, failures = self._judging.by, [], {}

        def work(samples: list[Sample]) -> Judged:
            return judge(samples, answers, self._judges, by=by)

        for indices, found in self._guard.parts(work, rows, note):
            if isinstance(found, BadSample):
                [sample] = [row for row in (rows[index] for index in indices) if isinstance(row, Sample)]
                parts.append(not_judged(sample, answers, found.reason, by=by))
                failures[sample.key] = str(found)
            else:
                parts.append(found)
        return parts, failures


def _answers(path: str, shard: str) -> Mapping[str, Answer]:
    file = Path(path.replace("{shard}", shard))
    return _read(str(file), file.stat().st_mtime_ns) if file.exists() else {}


@lru_cache(maxsize=4)
def _read(path: str, changed: int) -> Mapping[str, Answer]:
    """A recorded file may hold the answers to every shard: it is read once, unless it has changed."""
    return read_responses(Path(path))
