"""The judge's servers: which model must answer, what it may cost, and what is kept of its responses.

A judge that becomes another model, or costs too much, ends a job as a dead server does: no sample is at fault, shards
in work are not committed, and the answers that were paid for wait in OUT/answers for the same command.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from polite_flamingo.cost import Prices, cost_of
from polite_flamingo.endpoints.answer_store import Answer
from polite_flamingo.endpoints.chat import ChatServers
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.preference.judges.config import JudgeEndpoint
from polite_flamingo.preference.judges.reading import expected_ratings
from polite_flamingo.usage import Usage, of_model

NAME = "judge"
"""The judge's name among the models that cost something (`prices.tokens.judge`)."""

TOP_LOGPROBS = 20
"""Alternatives of each token to ask for: OpenAI's most, and enough for five digits."""


class CostReached(EndpointDown):
    """The next request might cost more than `judge.max_cost` leaves."""


def price_of(usage: Mapping[str, int], prices: Prices) -> float:
    """Return the price of tokens and images. Args: usage: by the names of `usage.USED`."""
    return cost_of(of_model(Usage(usage), NAME), prices).money


class Budget:
    """Counts what a judge costs, and refuses a request that might cost too much; threads may share it.

    A request in flight counts as much as the dearest so far, so the limit is passed only if a request is dearer than
    every one before it.

    Args:
        prices: of tokens.
        limit: most money; None for no limit.
        spent: by earlier attempts.
    """

    def __init__(self, prices: Prices, limit: float | None = None, spent: float = 0.0):
        self.prices, self.limit, self.spent = prices, limit, spent
        self._in_flight, self._dearest, self._lock = 0, 0.0, threading.Lock()

    @contextmanager
    def request(self) -> Iterator[list[Answer]]:
        """Reserve room for a request; the block appends its answer. Raises `CostReached`."""
        with self._lock:
            reserved = self.spent + (self._in_flight + 1) * self._dearest
            if self.limit is not None and (self.spent >= self.limit or reserved > self.limit):
                currency = self.prices.currency
                raise CostReached(
                    f"the judge has cost {currency}{self.spent:.4g} of judge.max_cost {currency}{self.limit:.4g}; what "
                    "was paid for is kept: raise judge.max_cost and run the same command"
                )
            self._in_flight += 1
        answers: list[Answer] = []
        try:
            yield answers
        finally:
            with self._lock:
                self._in_flight -= 1
                for answer in answers:
                    cost = price_of(answer.usage, self.prices)
                    self.spent += cost
                    self._dearest = max(self._dearest, cost)


class JudgeServers(ChatServers):
    """Chat servers that must all be of one model, the same from the first answer of a job to its last.

    Args:
        config: the servers.
        budget: counts each answer that is paid for.
        named: how the model has named itself before; "" if it has not answered yet.
    """

    def __init__(self, config: JudgeEndpoint, budget: Budget, named: str = ""):
        super().__init__(config, "judge.endpoint", config.extra)
        self.named, self._budget = named, budget
        self._naming = threading.Lock()

    def send(self, whole: Mapping[str, Any]) -> Answer:
        """Send a request within the budget. Raises `CostReached` instead of sending too many."""
        with self._budget.request() as answers:
            answer = super().send(whole)
            answers.append(answer)
        return answer

    def read(self, response: Mapping[str, Any]) -> Answer:
        """Return what a response holds, with the expected ratings.

        Raises:
            EndpointDown: another model, or another version of it, has answered than did before.
            LookupError, TypeError: the response has another form.
        """
        answer = super().read(response)
        with self._naming:
            self.named = self.named or answer.model
            if answer.model and answer.model != self.named:
                raise EndpointDown(
                    f"the judge has changed: {self.named} answered before, now {answer.model}; ratings of two models "
                    "cannot be compared: pin its version in judge.endpoint.model, or give another --out"
                )
        expected = _expected(response)
        return replace(answer, more={"expected": expected}) if expected else answer


def _expected(response: Mapping[str, Any]) -> list[list[Any]]:
    """Return expected ratings where the response has log-probabilities; none if they cannot be read."""
    try:
        tokens = response["choices"][0]["logprobs"]["content"]
        return [[name, round(mean, 6)] for name, mean in expected_ratings(tokens)]
    except (LookupError, TypeError, AttributeError, ValueError):
        return []
