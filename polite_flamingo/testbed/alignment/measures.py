"""What is measured of an aligned model, always with the length of its answers beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.length_control import LengthControlled, length_controlled
from polite_flamingo.testbed.alignment.results import AlignmentResults, Role
from polite_flamingo.testbed.study import measures
from polite_flamingo.testbed.study.measures import Measure, Spread, of_model, preferred, share, spread

PICTURES = ("in", "out")
ANSWERED = ("vqa", "vqa_rationale")

MEASURES: Mapping[str, Measure] = {
    "score": Measure(label="score of 12, in domain", metric="score", domains=("in",), margin=0.25),
    "score_out": Measure(label="score of 12, out of domain", metric="score", domains=("out",), margin=0.25),
    "accuracy_in": share("accuracy, in domain", "right", ("in",), *ANSWERED),
    "accuracy_out": share("accuracy, out of domain", "right", ("out",), *ANSWERED),
    "text": share("text, accuracy", "right", ("text",)),
    "reward": Measure(label="reward", metric="reward", domains=PICTURES, margin=0.25),
    "words": Measure(label="words", metric="words", domains=PICTURES, margin=1.0, digits=1),
    "win": share("preferred to the start", "win", PICTURES),
}
"""A quarter of a point of the score is a wrong answer made right (8 points) on one question in thirty-two."""


def numbers(results: AlignmentResults, role: Role, key: str) -> np.ndarray:
    """Return a model's numbers (seeds, questions); of "win", 1 where its score is above the start's, ½ for a tie."""
    measure = MEASURES[key]
    if measure.metric != "win":
        return of_model(results, role, measure)
    scores = replace(measure, metric="score")
    return preferred(of_model(results, role, scores), of_model(results, "start", scores))


def level(results: AlignmentResults, role: Role, key: str) -> Spread:
    """Return the mean of a model."""
    return spread(numbers(results, role, key))


def gain(results: AlignmentResults, role: Role, over: Role, key: str) -> Spread:
    """Return the mean of a model minus that of another, seed by seed and question by question."""
    return measures.gain(results, role, over, MEASURES[key])


def at_equal_length(results: AlignmentResults, role: Role, resampling: Resampling | None = None) -> LengthControlled:
    """Return the length-controlled win rate over the start, and what length alone explains.

    A question counts once, with the mean of its outcomes and of its lengths over seeds; so the interval is over
    questions, and seeds are fixed.
    """
    words = replace(MEASURES["win"], metric="words")
    won_Q = _over_seeds(numbers(results, role, "win"))
    own_Q, start_Q = (_over_seeds(of_model(results, one, words)) for one in (role, "start"))
    return length_controlled(won_Q, own_Q, start_Q, resampling or Resampling())


def won_at_equal_length(results: AlignmentResults, role: Role) -> Spread:
    """Return the length-controlled win rate as the number of a claim; see `at_equal_length`."""
    rate = at_equal_length(results, role).rate
    alone = (
        at_equal_length(replace(results, seeds=(seed,)), role, Resampling(draws=2)).rate.value
        for seed in results.seeds
    )  # fmt: skip
    seeds = tuple(value for value in alone if value is not None)
    return Spread(value=rate.value, low=rate.low, high=rate.high, seeds=seeds, questions=rate.n)


def _over_seeds(numbers_SQ: np.ndarray) -> np.ndarray:
    return np.asarray(numbers_SQ.mean(axis=0))  # NaN where a seed has none


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's ρ of two lists without ties; NaN for fewer than three."""
    if len(one) < 3:
        return float("nan")
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(np.stack(ranks))[0, 1])
