"""Multiple choice by log-probability: a model picks the choice that it finds most likely.

No text is generated, so nothing has to be parsed, and no model fails for its style. Choices of different length are
compared by the sum of their tokens' log-probabilities, by the mean (as lm-evaluation-harness's `acc_norm`, which
divides by length), or, "letter", by the letters that the question lists them under.

`choices.py` finds the choices of a sample, and `answer_scorer.py` has a checkpoint's log-probabilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, intervals, matrix, shared
from polite_flamingo.evaluation.choices import By, Choices, Options, asked_of
from polite_flamingo.preference.steerlm import with_attributes
from polite_flamingo.sample import BadSample, Sample

COMPARED: Mapping[By, str] = {
    "sum": "compared by the sums of the tokens' log-probabilities",
    "mean": "compared by the mean log-probability of a token",
    "letter": "compared by the letters of the choices",
}

LogProb = tuple[float, int]
"""Sum of the log-probabilities of a text's tokens and its end, in nats, and the number of these tokens."""

Scored = tuple[LogProb, ...] | BadSample
"""A question's log-probabilities, one per choice, or why it could not be asked."""


class AnswerScorer(Protocol):
    """A model that tells how likely it finds a text as its answer to a sample's last instruction."""

    def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> Sequence[LogProb | BadSample]:
        """Return one log-probability per pair, or why it has none."""


@dataclass(frozen=True, kw_only=True)
class ChoiceResults:
    """What a model picks, over the questions that all models could be asked.

    Attributes:
        accuracy: share of right picks.
        chance: accuracy of a random pick.
        longest: share of questions where the pick is the longest choice, in characters: a bias of sums and means.
        longest_right: share of questions where the right choice is the longest.
        unpicked: questions where the model's numbers are not finite, so that it picks nothing; they count as wrong.
        missing: reason -> number of questions that this model could not be asked.
    """

    accuracy: Estimate
    chance: float
    longest: float
    longest_right: float
    unpicked: int
    missing: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """The multiple-choice questions of an evaluation.

    Attributes:
        by: how choices were compared.
        results: contestant -> what it picks; empty if there are no questions.
        left_out: contestants that cannot be asked, because a server or a file gives no log-probabilities.
        refused: reason -> number of samples that cannot be asked, such as those without the right choice.
    """

    by: By
    results: dict[str, ChoiceResults]
    left_out: tuple[str, ...] = ()
    refused: dict[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return what a reader must know besides the table."""
        found = []
        if self.left_out:
            found.append(f"Left out, for want of log-probabilities: {', '.join(self.left_out)}.")
        if self.refused:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in self.refused.items())
            found.append(f"Samples whose choices cannot be compared: {counts}.")
        return found


def score_choices(
    questions: Sequence[Choices], scorer: AnswerScorer, by: By = "mean", ratings: Mapping[str, float] | None = None
) -> list[Scored]:
    """Return the log-probabilities of each question's choices.

    Args:
        questions: any number; all go to the model together.
        scorer: the model.
        by: "letter" scores the letters of the choices, else their texts.
        ratings: what the prompt asks for, of a model that was trained as SteerLM is.
    """
    asked = [asked_of(question, by) for question in questions]
    pairs = [(with_attributes(sample, ratings or {}), text) for one in asked for sample, text in one]
    found = iter(scorer.log_probs(pairs))
    return [_whole([next(found) for _ in one]) for one in asked]


def pick(scores: Sequence[LogProb], by: By) -> int | None:
    """Return the index of the likeliest choice, of equals the first; None if a number is not finite."""
    values = [total / max(tokens, 1) if by == "mean" else total for total, tokens in scores]
    return int(np.argmax(values)) if np.isfinite(values).all() else None


def choice_results(
    options: Sequence[Options], scored: Mapping[str, Sequence[Scored]], by: By, resampling: Resampling | None = None
) -> dict[str, ChoiceResults]:
    """Measure what models pick.

    Args:
        options: of each question.
        scored: model -> what it makes of each.
        by: how choices are compared.
        resampling: how intervals are made; all models use the same draws.

    Returns:
        Model -> its results, over the questions that every model with any number could be asked. A model without any
        number is left out.
    """
    picks = {
        name: [None if isinstance(one, BadSample) else pick(one, by) for one in found] for name, found in scored.items()
    }
    right_CN = shared(
        matrix(
            [
                [
                    None if isinstance(one, BadSample) else float(picked == there.right)
                    for one, picked, there in zip(found, picks[name], options, strict=True)
                ]
                for name, found in scored.items()
            ]
        )
    )
    estimates = zip(scored, intervals(right_CN, resampling or Resampling()), right_CN, strict=True)
    return {
        name: _results(
            accuracy,
            [(options[place], picks[name][place]) for place in np.flatnonzero(np.isfinite(right_N)).tolist()],
            Counter(one.reason for one in scored[name] if isinstance(one, BadSample)),
        )
        for name, accuracy, right_N in estimates
        if accuracy.n
    }


def _results(
    accuracy: Estimate, picked: Sequence[tuple[Options, int | None]], missing: Mapping[str, int]
) -> ChoiceResults:
    return ChoiceResults(
        accuracy=accuracy,
        chance=float(np.mean([1 / len(options.texts) for options, _ in picked])),
        longest=float(np.mean([one is not None and options.is_longest(one) for options, one in picked])),
        longest_right=float(np.mean([options.is_longest(options.right) for options, _ in picked])),
        unpicked=sum(one is None for _, one in picked),
        missing=dict(missing),
    )


def _whole(scores: Sequence[LogProb | BadSample]) -> Scored:
    """Return the scores of a question; if one choice could not be asked, why."""
    found = []
    for one in scores:
        if isinstance(one, BadSample):
            return one
        found.append(one)
    return tuple(found)
