"""Run rows through a model so that every row leaves with a result or with a reason.

A row that raises must not take its batch along; a row that kills the process must not take the job along
(`journal.py`); and a model that is broken must not send a billion rows to quarantine. Rows are handed to the model in
calls of a fixed number, formed within one shard only, so that the same shard gives the same calls and the same bytes
in every run.

This module loads no model and knows neither rewriting nor scoring: the caller gives the function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from polite_flamingo.journal import ShardJournal
from polite_flamingo.sample import BadSample, Quarantined, Reason, Sample
from polite_flamingo.shards import encode_record

Work = Callable[[list[Sample]], Sequence[Sample | BadSample]]
"""Samples in; the same samples out, one each, in order, or why there is none. May raise anything."""


class ModelBroken(RuntimeError):
    """So many rows failed in a row that the model, not the rows, must be at fault."""


class Guard:
    """Runs rows and counts failures in a row, over all shards that a worker sees.

    Args:
        reason: of a row on which the model raised ("rewriting_failed", "scoring_failed").
        rows_per_call: rows given to the model at once.
        max_failures_in_a_row: more than that raise `ModelBroken`. A `BadSample` is the row's own fault and not counted.
    """

    def __init__(self, *, reason: Reason, rows_per_call: int, max_failures_in_a_row: int):
        self.reason: Reason = reason
        self.rows_per_call = rows_per_call
        self.max_failures_in_a_row = max_failures_in_a_row
        self._failures_in_a_row = 0

    def run(
        self,
        work: Work,
        rows: Sequence[Sample | Quarantined],
        shard: str,
        journal: ShardJournal,
        check: Callable[[Sample], None] | None = None,
        first: int = 0,
    ) -> list[Sample | Quarantined]:
        """Return one item a row, in order: `work`'s sample, or a record of why there is none.

        Args:
            work: the model's part.
            rows: of one shard, in order. Those already quarantined pass through.
            shard: path of the shard, for the records.
            journal: of these rows and this stage.
            check: raises `BadSample` for a row that `work` should not see.
            first: index in the shard of the first row.
        """
        done: list[Sample | Quarantined] = list(rows)
        samples = {index: row for index, row in enumerate(rows) if isinstance(row, Sample)}
        live = list(samples)
        for start in range(0, len(live), self.rows_per_call):
            call = live[start : start + self.rows_per_call]
            alone = journal.suspicious(call[0])
            survivors = [index for index in call if index not in journal.condemned]
            for rows_now in [[index] for index in survivors] if alone else [survivors]:
                with journal.busy(call[0], rows_now, alone=alone):
                    outcome = self._checked(work, check, [samples[index] for index in rows_now])
                for index, result in zip(rows_now, outcome, strict=True):
                    done[index] = (
                        result
                        if isinstance(result, Sample)
                        else quarantine(samples[index], shard, first + index, result)
                    )
            for index in set(call) - set(survivors):
                error = BadSample("killed_worker", f"{samples[index].key}: worker processes died on this row alone")
                done[index] = quarantine(samples[index], shard, first + index, error)
        return done

    def _checked(
        self,
        work: Work,
        check: Callable[[Sample], None] | None,
        samples: list[Sample],
    ) -> list[Sample | BadSample]:
        """`work` on those that pass `check`."""
        outcome: list[Sample | BadSample] = list(samples)
        passed = []
        for place, sample in enumerate(samples):
            try:
                if check is not None:
                    check(sample)
                passed.append(place)
            except Exception as error:
                outcome[place] = self._failed(sample, error)
        results = self._attempt(work, [samples[place] for place in passed]) if passed else []
        for place, result in zip(passed, results, strict=True):
            outcome[place] = result
        return outcome

    def _attempt(self, work: Work, samples: list[Sample]) -> list[Sample | BadSample]:
        """`work` on all; where that raises, on each half: log2 steps to the culprit."""
        try:
            results = list(work(samples))
            for sample, result in zip(samples, results, strict=True):
                if isinstance(result, Sample):
                    assert result.key == sample.key, "a model must answer each row in order"
                    encode_record(result)  # raises for what no shard can hold
        except Exception as error:
            if len(samples) > 1:
                middle = len(samples) // 2
                return self._attempt(work, samples[:middle]) + self._attempt(work, samples[middle:])
            return [self._failed(samples[0], error)]
        self._failures_in_a_row = 0
        return results

    def _failed(self, sample: Sample, error: Exception) -> BadSample:
        if isinstance(error, BadSample):
            return error
        lines = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
        self._failures_in_a_row += 1
        if self._failures_in_a_row > self.max_failures_in_a_row:
            raise ModelBroken(
                f"{self._failures_in_a_row} rows in a row ended in {self.reason}; the last, {sample.key}: {detail}"
            ) from error
        return BadSample(self.reason, f"{sample.key}: {detail}")


def quarantine(sample: Sample, shard: str, index: int, error: BadSample) -> Quarantined:
    """The record of a sample that was read but could not go on."""
    return Quarantined(
        key=sample.key,
        shard=shard,
        index=index,
        reason=error.reason,
        detail=error.detail,
        payload=f"{shard}#{sample.key}.json",
    )


def with_provenance(sample: Sample, **facts: object) -> Sample:
    """Add to a sample's provenance what is not there yet."""
    return dataclasses.replace(sample, provenance={**facts, **sample.provenance})
