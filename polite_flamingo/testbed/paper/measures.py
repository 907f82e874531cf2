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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.judging import RAW
from polite_flamingo.testbed.paper.results import Generation, HeldOut, PaperResults, Rewrite, Role, Seed

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

REWARD = 0.25
"""Margin of rewards: a twentieth of what rewriting gains in reward in the first study (5.4)."""


def _share(
    label: str, metric: str, domains: tuple[str, ...], *tasks: str, unit: str = " %", margin: float = POINTS
) -> Measure:
    return Measure(
        label=label, metric=metric, domains=domains, tasks=tasks, margin=margin, scale=100, digits=1, unit=unit
    )


def _reward(label: str, domains: tuple[str, ...], *tasks: str, metric: str = "reward") -> Measure:
    return Measure(label=label, metric=metric, domains=domains, tasks=tasks, margin=REWARD)


ANSWERED = ("vqa", "vqa_rationale")
PICTURES = ("in", "out")

MEASURES: dict[str, Measure] = {
    "accuracy_in": _share("accuracy, in domain", "right", ("in",), *ANSWERED),
    "accuracy_out": _share("accuracy, out of domain", "right", ("out",), *ANSWERED),
    "nli_in": _share("in domain, as NLI judges", "accuracy", ("in",), *ANSWERED),
    "nli_out": _share("out of domain, as NLI judges", "accuracy", ("out",), *ANSWERED),
    "politeness": _reward("politeness (reward)", PICTURES, *ANSWERED),
    "win": _share("preferred to the annotation", "win", PICTURES, *ANSWERED),
    "captions": _share("captions, Rouge-L", "rouge_l", ("in",), "captioning", unit=""),
    "changes": _share("two pictures, exact", "right", ("in",), "change_captioning"),
    "changes_sts": _share("two pictures, STS", "sts", ("in",), "change_captioning", unit=""),
    "changes_rouge": _share("two pictures, Rouge-L", "rouge_l", ("in",), "change_captioning", unit=""),
    "text_accuracy": _share("text, accuracy", "right", ("text",)),
    "text_politeness": _reward("text, politeness (reward)", ("text",)),
}
"""Rouge-L and STS are shown in hundredths, as in the paper's tables."""


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


def of_model(results: PaperResults, role: Role, measure: Measure) -> np.ndarray:
    """Return a model's scores (seeds, questions of the measure's sets); missing ones are NaN."""
    sets = [name for name, held_out in results.sets.items() if measure.takes(held_out)]
    return np.stack([_numbers(seed, results.roles[role], measure.metric, sets) for seed in results.seeds])


def _numbers(seed: Seed, contestant: str, metric: str, sets: Collection[str]) -> np.ndarray:
    if metric == "win":
        gain = _numbers(seed, contestant, "reward", sets) - _numbers(seed, RAW, "reward", sets)
        return np.where(np.isfinite(gain), (np.sign(gain) + 1) / 2, np.nan)
    numbers = seed.judged.scores[contestant][metric]
    found = [numbers[place] for place, name in enumerate(seed.judged.tasks) if name in sets]
    return np.array([math.nan if one is None else one for one in found], dtype=float)


def level(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the mean of a model."""
    return spread(of_model(results, role, MEASURES[measure]))


def gain(results: PaperResults, role: Role, over: Role, measure: str) -> Spread:
    """Return the mean of a model minus that of another, seed by seed and question by question."""
    return spread(of_model(results, role, MEASURES[measure]) - of_model(results, over, MEASURES[measure]))


def tax(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the alignment tax ([PF], definition 1), the text-only model's lead, as a mean over all text questions."""
    return gain(results, "text_only", role, measure)


def of_annotations(results: PaperResults, measure: str) -> Spread:
    """Return the mean of the annotations themselves."""
    sets = [name for name, held_out in results.sets.items() if MEASURES[measure].takes(held_out)]
    return spread(np.stack([_numbers(seed, RAW, MEASURES[measure].metric, sets) for seed in results.seeds]))


REWRITING: dict[str, Measure] = {
    "reward_raw": _reward("reward of the annotation", (), metric="reward_raw"),
    "reward": _reward("reward of the rewritten text", ()),
    "unchanged": _share("left unchanged", "unchanged", (), margin=0.01),
    "clip": Measure(label="CLIPScore", metric="clip", domains=(), margin=0.5),
}
"""What is measured on rewritten annotations. The paper's CLIPScores differ by 0.63."""

NUMBERS: dict[str, Callable[[Rewrite], float | None]] = {
    "reward_raw": lambda row: row.reward_raw,
    "reward": lambda row: row.reward,
    "unchanged": lambda row: float(row.unchanged),
    "clip": lambda row: row.clip,
}


def of_rewrites(
    results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()
) -> np.ndarray:
    """Return the scores (seeds, annotations) of what a generation rewrote; missing ones are NaN.

    Args:
        results: the repetition's results.
        generation: the rewriter's generation.
        number: one of `NUMBERS`.
        datasets: datasets of the annotations; empty for all.
    """
    every = [row for seed in results.seeds for rows in seed.rewrites.values() for row in rows]
    keys = list(dict.fromkeys(row.key for row in every if not datasets or row.dataset in datasets))
    tables = []
    for seed in results.seeds:
        found = {row.key: NUMBERS[number](row) for row in seed.rewrites.get(generation, ())}
        tables.append([math.nan if (one := found.get(key)) is None else one for key in keys])
    return np.array(tables, dtype=float).reshape(len(results.seeds), len(keys))


def rewritten(results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()) -> Spread:
    """Return the mean of a generation's rewrites."""
    return spread(of_rewrites(results, generation, number, datasets))


def between(
    results: PaperResults, one: tuple[Generation, str], other: tuple[Generation, str], datasets: Collection[str] = ()
) -> Spread:
    """Return the mean difference of two numbers (generation, name), over the annotations that have both."""
    return spread(of_rewrites(results, *one, datasets) - of_rewrites(results, *other, datasets))


def shown(value: float | None, measure: Measure, *, sign: bool = False, unit: bool = True) -> str:
    """Format a number of a measure, with a typographic minus; a dash for None."""
    if value is None:
        return "–"
    text = f"{measure.scale * value:{'+' if sign else ''}.{measure.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") + (measure.unit if unit else "")


def sides(results: PaperResults, roles: Sequence[Role], measure: str) -> list[Spread]:
    """Return the means of several models over the questions that all of them answered."""
    tables = [of_model(results, role, MEASURES[measure]) for role in roles]
    common = np.isfinite(np.stack(tables)).all(axis=0)
    return [spread(np.where(common, one, np.nan)) for one in tables]
