"""Compute effects and their intervals from the numbers of all seeds and questions.

Every seed's models answer the same questions, so a measure is a table: a row per seed, a column per question. A
comparison subtracts two tables cell by cell, and easy and hard questions cancel out. What another repetition could give
varies with both: other scenes to train on and other initial weights (rows), other questions (columns). The interval
takes both as random (the two-way random effects model; Clark 1973 called its test quasi F):

    variance of the mean = (MS_seeds + MS_questions - MS_rest) / (seeds * questions)

with Student's t and Satterthwaite's degrees of freedom. `tests/testbed/paper/test_measures.py` simulates its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.testbed.study.results import HeldOut, Study

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds and questions.

    Attributes:
        value: the mean; None without data.
        low: lower end of the interval; None with fewer than two seeds or questions.
        high: upper end of the interval.
        seeds: the mean of each seed.
        questions: number of questions that every seed has a number for.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[float, ...]
    questions: int


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a model.

    Attributes:
        label: its name on the page.
        metric: "right" (the exact check), one of `evaluation.metrics.METRICS`, or "win": 1 if the reward is above the
            annotation's, ½ if equal.
        domains: domains of the sets to measure on; see `HeldOut`.
        tasks: tasks of the sets to measure on; empty for all.
        margin: an effect of at most this counts as none, in the unit of the numbers; fixed before anything was run.
        scale: factor by which numbers are multiplied to show them.
        digits: decimals to show.
        unit: text after the number.
    """

    label: str
    metric: str
    domains: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    margin: float
    scale: float = 1.0
    digits: int = 2
    unit: str = ""

    def takes(self, held_out: HeldOut) -> bool:
        """Whether a set's samples count."""
        return held_out.domain in self.domains and (not self.tasks or held_out.task in self.tasks)


POINTS = 0.03
"""Margin of shares: three points, the half-width of an interval on 1,000 questions."""


def share(
    label: str, metric: str, domains: tuple[str, ...], *tasks: str, unit: str = " %", margin: float = POINTS
) -> Measure:
    """Return the measure of a share, shown in per cent."""
    return Measure(
        label=label, metric=metric, domains=domains, tasks=tasks, margin=margin, scale=100, digits=1, unit=unit
    )


def spread(numbers_SQ: np.ndarray, confidence: float = CONFIDENCE) -> Spread:
    """Return the mean of a table (seeds, questions) with its interval. Questions that a seed lacks are left out."""
    known_SQ = numbers_SQ[:, np.isfinite(numbers_SQ).all(axis=0)] if numbers_SQ.size else numbers_SQ[:, :0]
    seeds, questions = known_SQ.shape
    if not known_SQ.size:
        return Spread(value=None, low=None, high=None, seeds=(), questions=0)
    value = float(known_SQ.mean())
    reach = _reach(known_SQ, confidence) if seeds > 1 and questions > 1 else None
    return Spread(
        value=value,
        low=None if reach is None else value - reach,
        high=None if reach is None else value + reach,
        seeds=tuple(float(one) for one in known_SQ.mean(axis=1)),
        questions=questions,
    )


def _reach(numbers_SQ: np.ndarray, confidence: float) -> float:
    """Return half the width of the interval of the mean, with seeds and questions both random."""
    from scipy.special import stdtrit  # scipy.stats has the same, and takes seconds to import

    seeds, questions = numbers_SQ.shape
    mean = numbers_SQ.mean()
    rows_S, columns_Q = numbers_SQ.mean(axis=1), numbers_SQ.mean(axis=0)
    rest_SQ = numbers_SQ - rows_S[:, None] - columns_Q[None, :] + mean
    degrees = (seeds - 1, questions - 1, (seeds - 1) * (questions - 1))
    by_seed = questions * float(((rows_S - mean) ** 2).sum()) / degrees[0]
    by_question = seeds * float(((columns_Q - mean) ** 2).sum()) / degrees[1]
    rest = float((rest_SQ**2).sum()) / degrees[2]
    # neither factor's variance is negative: where chance makes it look so, the rest alone counts
    total = max(by_seed, rest) + max(by_question, rest) - rest
    if not total:  # all numbers are equal: the rule of three, as another question in `questions` / 3 may differ by 1
        return 3 / questions
    squares = (by_seed, by_question, rest)
    freedom = total**2 / sum(square**2 / degree for square, degree in zip(squares, degrees, strict=True))
    return float(stdtrit(max(freedom, min(degrees)), (1 + confidence) / 2)) * math.sqrt(total / numbers_SQ.size)


def of_model(results: Study[Any], role: str, measure: Measure) -> np.ndarray:
    """Return a model's scores (seeds, questions of the measure's sets); missing ones are NaN."""
    chosen = sets_of(results, measure)
    return np.stack([numbers_of(seed.judged, results.roles[role], measure.metric, chosen) for seed in results.seeds])


def sets_of(results: Study[Any], measure: Measure) -> list[str]:
    """Return the names of the sets that a measure counts."""
    return [name for name, held_out in results.sets.items() if measure.takes(held_out)]


def numbers_of(judged: Judged, contestant: str, metric: str, sets: Collection[str]) -> np.ndarray:
    """Return a contestant's numbers on the questions of some sets; missing ones are NaN."""
    numbers = judged.scores[contestant][metric]
    found = [numbers[place] for place, name in enumerate(judged.tasks) if name in sets]
    return np.array([math.nan if one is None else one for one in found], dtype=float)


def preferred(one_SQ: np.ndarray, other_SQ: np.ndarray) -> np.ndarray:
    """Return 1 where the first number is greater, 0 where the second is, and a half for a tie."""
    gain_SQ = one_SQ - other_SQ
    return np.where(np.isfinite(gain_SQ), (np.sign(gain_SQ) + 1) / 2, np.nan)


def level(results: Study[Any], role: str, measure: Measure) -> Spread:
    """Return the mean of a model."""
    return spread(of_model(results, role, measure))


def gain(results: Study[Any], role: str, over: str, measure: Measure) -> Spread:
    """Return the mean of a model minus that of another, seed by seed and question by question."""
    return spread(of_model(results, role, measure) - of_model(results, over, measure))


def shown(value: float | None, measure: Measure, *, sign: bool = False, unit: bool = True) -> str:
    """Format a number of a measure, with a typographic minus; a dash for None."""
    if value is None:
        return "–"
    text = f"{measure.scale * value:{'+' if sign else ''}.{measure.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") + (measure.unit if unit else "")
