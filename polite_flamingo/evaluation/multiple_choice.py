"""Multiple choice by log-probability: the choice that a model finds likeliest as its answer is the one that it picks.

No text is generated, so nothing has to be parsed, and no model fails for its style. Choices of different length are
compared by the sum of their tokens' log-probabilities, by the mean (as lm-evaluation-harness's `acc_norm`, which
divides by length), or, "letter", by the letters that the question lists them under.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, intervals
from polite_flamingo.sample import Sample

By = Literal["sum", "mean", "letter"]
"""How choices are compared."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class AnswerScorer(Protocol):
    """A model that tells how likely it finds a text as its answer to a sample's last instruction."""

    def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> Sequence[tuple[float, int]]:
        """Return per pair the sum of the log-probabilities of the text's tokens and its end, and their number."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A question with its choices.

    Attributes:
        sample: its last instruction is the question.
        choices: texts of the choices, at least two.
        right: index of the right one.
    """

    sample: Sample
    choices: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        """Raise ValueError for a question that cannot be answered."""
        if not 2 <= len(self.choices) <= len(LETTERS) or not 0 <= self.right < len(self.choices):
            raise ValueError(f"{self.sample.key}: {len(self.choices)} choices, of which number {self.right} is right")


@dataclass(frozen=True, kw_only=True)
class ChoiceResults:
    """What a model picks.

    Attributes:
        accuracy: share of right picks.
        chance: accuracy of a random pick.
        picks: index of each pick; None where the model's numbers are not finite, which counts as wrong.
        longest: share of questions where the pick is the longest choice, in characters: a bias of sums and means.
    """

    accuracy: Estimate
    chance: float
    picks: list[int | None]
    longest: float


def with_letters(question: Choices) -> Sample:
    """Return the question's sample with the choices listed under letters, in a line each."""
    *before, last = question.sample.turns
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=False))
    asked = f"{last.instruction.rstrip()}\n{listed}\nAnswer with the letter of the right choice."
    return replace(question.sample, turns=(*before, replace(last, instruction=asked)))


def answer_choices(
    questions: Sequence[Choices], scorer: AnswerScorer, by: By = "mean", resampling: Resampling | None = None
) -> ChoiceResults:
    """Let a model pick.

    Args:
        questions: at least one.
        scorer: the model.
        by: how choices are compared.
        resampling: how the interval is made.
    """
    if not questions:
        raise ValueError("no question to answer")
    asked: list[tuple[Sample, str]] = []
    for question in questions:
        if by == "letter":
            listed = with_letters(question)
            asked += [(listed, letter) for letter, _ in zip(LETTERS, question.choices, strict=False)]
        else:
            asked += [(question.sample, text) for text in question.choices]
    scores = iter(scorer.log_probs(asked))
    picks = [_pick([next(scores) for _ in question.choices], by) for question in questions]
    right = [float(pick == question.right) for pick, question in zip(picks, questions, strict=True)]
    [accuracy] = intervals(np.array([right]), resampling or Resampling())
    longest = [
        pick is not None and len(question.choices[pick]) == max(map(len, question.choices))
        for pick, question in zip(picks, questions, strict=True)
    ]
    chance = float(np.mean([1 / len(question.choices) for question in questions]))
    return ChoiceResults(accuracy=accuracy, chance=chance, picks=picks, longest=float(np.mean(longest)))


def _pick(scores: Sequence[tuple[float, int]], by: By) -> int | None:
    """Return the index of the likeliest choice, of equals the first; None if a number is not finite."""
    values = [total / max(tokens, 1) if by == "mean" else total for total, tokens in scores]
    return int(np.argmax(values)) if np.isfinite(values).all() else None
