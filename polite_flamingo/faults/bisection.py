"""Find the samples on which a model raises by halving the batch, and tell a bad row from a broken model.

A sample that raises must not take its batch along, and a model that is broken must not send a billion rows to
quarantine: too many failures in a row raise `ModelBroken`. Nothing here depends on shards or the journal, so a server
can use it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.sample import BadSample, Reason, Sample

Result = TypeVar("Result")


class ModelBroken(RuntimeError):
    """So many consecutive rows failed that the model, not the rows, must be at fault."""


class Bisector:
    """Finds the samples on which a model raises, and counts consecutive failures over all calls.

    Args:
        reason: reason of a sample on which the model raised ("rewriting_failed", "scoring_failed").
        max_failures_in_a_row: more raise `ModelBroken`. A `BadSample` is the sample's own fault and is not counted.
    """

    def __init__(self, *, reason: Reason, max_failures_in_a_row: int):
        self.reason: Reason = reason
        self.max_failures_in_a_row = max_failures_in_a_row
        self._failures_in_a_row = 0

    @property
    def broken(self) -> bool:
        """Whether so many consecutive samples have failed that the model must be at fault."""
        return self._failures_in_a_row > self.max_failures_in_a_row

    def run(
        self, work: Callable[[list[Sample]], Result], samples: list[Sample]
    ) -> list[tuple[list[Sample], Result | BadSample]]:
        """Run `work` on all samples; where it raises, on each half: log2 steps to the culprit.

        Returns:
            Parts of the samples, in order, each with what `work` returned for it, or one sample alone with the reason
            why it has no result.

        Raises:
            ModelBroken: too many failed in a row.
            EndpointDown: the model is a server, and it is down: no sample is at fault.
        """
        try:
            result = work(samples)
        except EndpointDown:
            raise
        except Exception as error:
            if len(samples) > 1:
                middle = len(samples) // 2
                return self.run(work, samples[:middle]) + self.run(work, samples[middle:])
            return [(samples, self.failed(samples[0], error))]
        self._failures_in_a_row = 0
        return [(samples, result)]

    def failed(self, sample: Sample, error: Exception) -> BadSample:
        """Count a failure and return why this sample has no result. Raises `ModelBroken`."""
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
