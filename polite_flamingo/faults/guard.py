"""Run the rows of a shard through a model so that every row leaves with a result or with a reason.

Rows are handed to the model in calls of a fixed number, formed within one shard only, so that the same shard gives the
same calls and the same bytes in every run. Each call is noted in the journal first (`journal.py`), which finds
a row that kills the process; a row that raises is found by bisection (`bisection.py`). The caller gives the function:
nothing here knows rewriting, scoring or judging.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from polite_flamingo.faults.bisection import Bisector, Result
from polite_flamingo.faults.journal import ShardJournal
from polite_flamingo.sample import BadSample, Quarantined, Reason, Sample
from polite_flamingo.storage.shards import encode_record

Work = Callable[[list[Sample]], Sequence[Sample | BadSample]]
"""Samples in; one result per sample out, in order: the sample, or why there is none. May raise anything."""


class Guard:
    """Runs rows of shards; consecutive failures are counted over all shards that a worker sees.

    Args:
        reason: reason of a row on which the model raised; see `Bisector`.
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
        """Return one item per row, in order: the sample that `work` returned, or a record of why there is none.

        Args:
            work: calls the model.
            rows: of one shard, in order. Rows that are already quarantined pass through.
            shard: path of the shard, for the records.
            journal: the journal of these rows and this stage.
            check: raises `BadSample` for a row that `work` should not see.
            first: index of the first row in the shard.
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
        """Run `work` that returns one result for all of its samples, of any type.

        Yields:
            The indices of samples and what `work` returned for them, or one index and why it has no result. Each
            sample comes once; rows that are already quarantined do not come at all.
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
        """Run `work` on the samples that pass `check`, bisecting where it raises."""
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
    """Return the record of a sample that was read but could not be processed."""
    return Quarantined(
        key=sample.key,
        shard=shard,
        index=index,
        reason=error.reason,
        detail=error.detail,
        payload=f"{shard}#{sample.key}.json",
    )


def with_provenance(sample: Sample, **facts: object) -> Sample:
    """Add entries that are missing to a sample's provenance."""
    return dataclasses.replace(sample, provenance={**facts, **sample.provenance})
