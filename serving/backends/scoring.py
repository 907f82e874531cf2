"""The filters as a service: waiting requests are scored together, and only samples at fault fail.

Scoring many samples costs little more than scoring a few, so the requests that arrived while the filters were busy are
scored in one call. A sample on which the filters raise is found by bisection, as in a build (`Bisector`), and does not
fail the others. The models run in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from polite_flamingo.faults.bisection import Bisector
from polite_flamingo.sample import BadSample, Sample
from serving.http import logs

FAILURES_IN_A_ROW = 256
"""Samples in a row on which the models may raise before they count as broken: more than one request has
(`limits.rewrites`), so one client's texts do not fail another's."""

Scored = Mapping[str, Any] | BadSample


class Scores(Protocol):
    """The interface of `Scorer`."""

    def score(self, samples: Sequence[Sample]) -> Sequence[Scored]:
        """The scores of each sample, in order, or why it has none."""


class BatchingScorer:
    """One copy of the models. Used from one event loop."""

    def __init__(self, models: Scores, *, together: int = 64, failures_in_a_row: int = FAILURES_IN_A_ROW):
        """Args: together: maximum number of requests scored in one call."""
        self._models, self._max_requests = models, together
        self._bisector = Bisector(reason="scoring_failed", max_failures_in_a_row=failures_in_a_row)
        self._waiting: list[tuple[Sequence[Sample], asyncio.Future[list[Scored]]]] = []
        self._working: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the models work, as far as known."""
        return not self._bisector.broken

    async def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """See `Backend.score`. Raises what the models raise once they are broken."""
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[: self._max_requests], self._waiting[self._max_requests :]
            wanted = [(samples, future) for samples, future in taken if not future.done()]
            try:
                found = await asyncio.to_thread(self._run, [one for samples, _ in wanted for one in samples])
            except Exception as error:  # the models are broken: every waiting request must fail
                for _, future in wanted:
                    if not future.done():
                        future.set_exception(error)
                continue
            for samples, future in wanted:
                mine, found = found[: len(samples)], found[len(samples) :]
                if not future.done():
                    future.set_result(mine)

    def _run(self, samples: list[Sample]) -> list[Scored]:
        found: list[Scored] = []
        for _, scores in self._bisector.run(self._logged, samples) if samples else ():
            found += [scores] if isinstance(scores, BadSample) else scores
        return found

    def _logged(self, samples: list[Sample]) -> Sequence[Scored]:
        try:
            return self._models.score(samples)
        except Exception as error:
            if len(samples) == 1:
                logs.scoring_failure(error)
            raise
