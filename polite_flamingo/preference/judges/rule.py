"""The exact judge: a function that a profile names rates each answer, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from polite_flamingo.candidates import ATTRIBUTES, MOST, Rating
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.named_function import named_function
from polite_flamingo.preference.judges.base import with_ratings
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.usage import Usage

Rule = Callable[[Sample, str], tuple[Mapping[str, int], str]]
"""Sample, answer -> rating of each attribute, and why. Raises `BadSample` for a sample that it cannot check."""


def load_rule(name: str) -> Rule:
    """Return the function that a profile names as MODULE:FUNCTION. Raises `ValueError` if there is none."""
    return named_function("judge.rule", name)


class RuleJudge:
    """Rates by a rule; order and place do not matter to it."""

    name = "rule"

    def __init__(self, rule: Rule):
        self._rule = rule

    def rate(
        self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None
    ) -> list[Sample | BadSample]:
        """See `Judge.rate`."""
        return [self._rated(sample) for sample in samples]

    def _rated(self, sample: Sample) -> Sample | BadSample:
        try:
            found = [self._rule(sample, one.text) for one in sample.candidates]
        except BadSample as bad:
            return bad
        for values, _ in found:
            if values.keys() != {*ATTRIBUTES} or not all(value in range(MOST + 1) for value in values.values()):
                return BadSample(
                    "judging_failed", f"{sample.key}: the rule must rate {', '.join(ATTRIBUTES)} from 0 to 4"
                )
        return with_ratings(
            sample, [[Rating(judge=self.name, values=dict(values), reason=why)] for values, why in found]
        )
