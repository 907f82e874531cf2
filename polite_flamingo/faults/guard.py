"""Run rows through a model so that every row leaves with a result or with a reason.

A row that raises must not take its batch along; a row that kills the process must not take the job along
(`journal.py`); and a model that is broken must not send a billion rows to quarantine. Rows are handed to the model in
calls of a fixed number, formed within one shard only, so that the same shard gives the same calls and the same bytes
in every run.

`Bisector` alone is for who has neither shards nor a journal, such as a server. This module loads no model and knows
neither rewriting nor scoring nor judging: the caller gives the function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from polite_flamingo.sample import BadSample, Quarantined, Reason, Sample
from polite_flamingo.storage.journal import ShardJournal
from polite_flamingo.storage.shards import encode_record

Result = TypeVar("Result")

Work = Callable[[list[Sample]], Sequence[Sample | BadSample]]
"""Samples in; the same samples out, one each, in order, or why there is none. May raise anything."""


class ModelBroken(RuntimeError):
    """So many rows failed in a row that the model, not the rows, must be at fault."""


class Bisector:
    """Finds the samples on which a model raises, and counts failures in a row, over all calls.

    Args:
        reason: of a sample on which the model raised ("rewriting_failed", "scoring_failed").
        max_failures_in_a_row: more than that raise `ModelBroken`. A `BadSample` is the sample's own fault and not
            counted.
    """

    def __init__(self, *, reason: Reason, max_failures_in_a_row: int):
        self.reason: Reason = reason
        self.max_failures_in_a_row = max_failures_in_a_row
        self._failures_in_a_row = 0

    @property
    def broken(self) -> bool:
        """Whether so many samples have failed in a row that the model must be at fault."""
        return self._failures_in_a_row > self.max_failures_in_a_row

    def run(
        self, work: Callable[[list[Sample]], Result], samples: list[Sample]
    ) -> list[tuple[list[Sample], Result | BadSample]]:
        """`work` on all; where that raises, on each half: log2 steps to the culprit.

        Returns:
            Parts of the samples, in order, each with what `work` returned for it, or one sample alone with why there is
            nothing.

        Raises:
            ModelBroken: too many failed in a row.
        """
        try:
            result = work(samples)
        except Exception as error:
            if len(samples) > 1:
                middle = len(samples) // 2
                return self.run(work, samples[:middle]) + self.run(work, samples[middle:])
            return [(samples, self.failed(samples[0], error))]
        self._failures_in_a_row = 0
        return [(samples, result)]

    def failed(self, sample: Sample, error: Exception) -> BadSample:
        """Why this sample has no result; counts the failure. Raises `ModelBroken`."""
        if isinstance(error, BadSample):
            return error
        lines = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
        self._failures_in_a_row += 1
        if self.broken:
            raise ModelBroken(
                f"{self._failures_in_a_row} rows in a row ended in {self.reason}; the last, {sample.key}: {detail}"
            ) from error
        return BadSample(self.reason, f"{sample.key}: {detail}")


class Guard:
    """Runs rows of shards; failures in a row are counted over all shards that a worker sees.

    Args:
        reason: of a row on which the model raised; see `Bisector`.
        rows_per_call: rows given to the model at once.
        max_failures_in_a_row: see `Bisector`.
    """

    def __init__(self, *, reason: Reason, rows_per_call: int, max_failures_in_a_row: int):
        self.reason: Reason = reason
        self.rows_per_call = rows_per_call
        self._bisector = Bisector(reason=reason, max_failures_in_a_row=max_failures_in_a_row)

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

        def one_each(samples: list[Sample]) -> list[Sample | BadSample]:
            results = list(work(samples))
            for sample, result in zip(samples, results, strict=True):
                if isinstance(result, Sample):
                    assert result.key == sample.key, "a model must answer each row in order"
                    encode_record(result)  # raises for what no shard can hold
            return results

        done: list[Sample | Quarantined] = list(rows)
        for indices, outcome in self.parts(one_each, rows, journal, check):
            results = [outcome] if isinstance(outcome, BadSample) else outcome
            for index, result in zip(indices, results, strict=True):
                row = rows[index]
                assert isinstance(row, Sample)
                done[index] = result if isinstance(result, Sample) else quarantine(row, shard, first + index, result)
        return done

    def parts(
        self,
        work: Callable[[list[Sample]], Result],
        rows: Sequence[Sample | Quarantined],
        journal: ShardJournal,
        check: Callable[[Sample], None] | None = None,
    ) -> Iterator[tuple[list[int], Result | BadSample]]:
        """As `run`, for `work` that returns one thing for all of its samples, whatever it is.

        Yields:
            Indices of samples and what `work` returned for them, or one index and why there is nothing. Each sample
            comes once; what is quarantined already does not.
        """
        samples = {index: row for index, row in enumerate(rows) if isinstance(row, Sample)}
        live = list(samples)
        for start in range(0, len(live), self.rows_per_call):
            call = live[start : start + self.rows_per_call]
            alone = journal.suspicious(call[0])
            survivors = [index for index in call if index not in journal.condemned]
            for rows_now in [[index] for index in survivors] if alone else [survivors]:
                with journal.busy(call[0], rows_now, alone=alone):
                    found = list(self._checked(work, check, {index: samples[index] for index in rows_now}))
                yield from found
            for index in sorted(set(call) - set(survivors)):
                yield (
                    [index],
                    BadSample("killed_worker", f"{samples[index].key}: worker processes died on this row alone"),
                )

    def _checked(
        self,
        work: Callable[[list[Sample]], Result],
        check: Callable[[Sample], None] | None,
        samples: Mapping[int, Sample],
    ) -> Iterator[tuple[list[int], Result | BadSample]]:
        """`work` on those that pass `check`."""
        passed = []
        for index, sample in samples.items():
            try:
                if check is not None:
                    check(sample)
                passed.append(index)
            except Exception as error:
                yield [index], self._bisector.failed(sample, error)
        places = iter(passed)
        for part, result in self._bisector.run(work, [samples[index] for index in passed]) if passed else ():
            yield [next(places) for _ in part], result


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
