"""Judged answers -> what came of it: means by task, win rates, the alignment tax, each with its interval; as JSON.

Means of a task are over the samples on which all who take part in the task can be compared, so that nobody looks better
for having left out the hard ones; how many were left out is told. Pages and tables are made elsewhere (`markdown.py`,
`report/evaluation.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polite_flamingo.evaluation.alignment_tax import Tax, alignment_tax
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, intervals, matrix, shared
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Judged
from polite_flamingo.evaluation.metrics import METRICS
from polite_flamingo.evaluation.win_rate import WinRates, win_rates


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task.

    Attributes:
        samples: of the task.
        means: metric -> contestant -> mean; only contestants and metrics that have a number.
        left_out: metric -> samples on which some of these contestants have no number, and which no mean counts.
    """

    samples: int
    means: dict[str, dict[str, Estimate]]
    left_out: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a contestant gave.

    Attributes:
        answered: samples with an answer, empty ones included.
        empty: answers without a word.
        missing: reason -> samples without an answer.
        unscored: metric -> answers whose number was not finite.
        words: mean of an answer.
        exact: share of answers that are the annotation, character by character.
    """

    answered: int
    empty: int
    missing: dict[str, int]
    unscored: dict[str, int]
    words: float | None
    exact: float | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Of one evaluation; `to_json` gives JSON types.

    Attributes:
        contestants: in the order of tables.
        samples: in all.
        tasks: task -> its means.
        reward: contestant -> mean over the samples of all tasks, as far as they can be compared.
        wins: by reward, over the samples of all tasks.
        text_only: the model that the tax is counted from; "" for none.
        tax: metric -> contestant that is no annotation -> its tax.
        answers: contestant -> what it gave.
        resampling: of the intervals.
    """

    contestants: tuple[str, ...]
    samples: int
    tasks: dict[str, TaskResult]
    reward: dict[str, Estimate]
    wins: WinRates
    text_only: str
    tax: dict[str, dict[str, Tax]]
    answers: dict[str, Answers]
    resampling: Resampling = field(default_factory=Resampling)

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return dataclasses.asdict(self)

    def mean(self, contestant: str, metric: str, task: str) -> float | None:
        """One number of the tables; None where there is none."""
        found = self.tasks[task].means.get(metric, {}).get(contestant)
        return found.value if found else None


def summarise(judged: Judged, *, text_only: str = "", resampling: Resampling | None = None) -> Results:
    """Everything that the numbers say.

    Args:
        judged: the numbers.
        text_only: the contestant that the alignment tax is counted from; "" counts none.
        resampling: of the intervals.

    Raises:
        ValueError: `text_only` is no contestant.
    """
    resampling = resampling or Resampling()
    names = judged.contestants
    if text_only and text_only not in names:
        raise ValueError(f"text_only names {text_only!r}, which is none of the contestants ({', '.join(names)})")
    numbers = {metric: matrix([judged.scores[name][metric] for name in names]) for metric in METRICS}
    places = {
        task: np.flatnonzero(np.array(judged.tasks, dtype=object) == task) for task in dict.fromkeys(judged.tasks)
    }
    rewards_CN = np.full((len(names), len(judged.keys)), np.nan)
    for where in places.values():
        rewards_CN[:, where] = shared(numbers["reward"][:, where])
    return Results(
        contestants=names,
        samples=len(judged.keys),
        tasks={
            task: _task({metric: numbers[metric][:, where] for metric in METRICS}, names, resampling, stream)
            for stream, (task, where) in enumerate(places.items())
        },
        reward=dict(zip(names, intervals(rewards_CN, resampling), strict=True)),
        wins=win_rates(numbers["reward"], names, resampling),
        text_only=text_only,
        tax=_taxes(numbers, places, names, text_only, resampling) if text_only else {},
        answers={name: _answers(judged, name) for name in names},
        resampling=resampling,
    )


def _task(numbers: Mapping[str, np.ndarray], names: tuple[str, ...], resampling: Resampling, stream: int) -> TaskResult:
    means: dict[str, dict[str, Estimate]] = {}
    left_out: dict[str, int] = {}
    samples = 0
    for metric, values_CN in numbers.items():
        samples = values_CN.shape[1]
        common_CN = shared(values_CN)
        found = dict(zip(names, intervals(common_CN, resampling, stream), strict=True))
        there = {name: one for name, one in found.items() if one.n}
        any_N = np.isfinite(values_CN).any(axis=0)
        if any_N.any():
            means[metric] = there
            left_out[metric] = int((any_N & ~np.isfinite(common_CN).any(axis=0)).sum())
    return TaskResult(samples=samples, means=means, left_out=left_out)


def _taxes(
    numbers: Mapping[str, np.ndarray], places: Mapping[str, np.ndarray], names: tuple[str, ...], text_only: str,
    resampling: Resampling,
) -> dict[str, dict[str, Tax]]:  # fmt: skip
    taxes: dict[str, dict[str, Tax]] = {}
    base = names.index(text_only)
    for metric, values_CN in numbers.items():
        by_task = [{task: values_CN[row, where] for task, where in places.items()} for row in range(len(names))]
        found = {
            name: alignment_tax(by_task[base], by_task[row], resampling)
            for row, name in enumerate(names)
            if name not in (text_only, RAW, REWRITTEN)  # no model wrote the annotations
        }
        taxes[metric] = {name: tax for name, tax in found.items() if tax.tasks}
    return {metric: found for metric, found in taxes.items() if found}


def _answers(judged: Judged, name: str) -> Answers:
    words = [count for count in judged.scores[name]["words"] if count is not None]
    exact = [one for one in judged.scores[name]["exact"] if one is not None]
    return Answers(
        answered=len(words),
        empty=sum(count == 0 for count in words),
        missing=judged.missing[name],
        unscored=judged.unscored[name],
        words=sum(words) / len(words) if words else None,
        exact=sum(exact) / len(exact) if exact else None,
    )
