"""Results of an evaluation: means by task, win rates and the alignment tax, each with its interval; as JSON.

A mean is over the samples that every contestant of the task answered, so that nobody looks better for skipping the hard
ones; the number of samples left out is kept. `markdown.py` makes tables of results, `report/evaluation.py` a page.
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
from polite_flamingo.evaluation.length_control import LengthControlled, length_controlled_rates
from polite_flamingo.evaluation.metrics import METRICS
from polite_flamingo.evaluation.multiple_choice import MultipleChoice
from polite_flamingo.evaluation.win_rate import WinRates, win_rates
from polite_flamingo.evaluation.yes_no import YesNo, yes_no


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task.

    Attributes:
        samples: number of samples of the task.
        means: metric -> contestant -> mean; only contestants and metrics that have a number.
        left_out: metric -> number of samples left out of the means because some contestant has no number for them.
        words: contestant -> mean number of words of its answers to the task; None without answers.
    """

    samples: int
    means: dict[str, dict[str, Estimate]]
    left_out: dict[str, int]
    words: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Counts of the answers of one contestant.

    Attributes:
        answered: samples with an answer, including empty ones.
        empty: answers without content.
        faults: other faults (`answers.FAULTS`) -> number of answers; an answer may have several.
        missing: reason -> number of samples without an answer.
        unscored: metric -> number of scores that were not finite.
        words: mean number of words.
        exact: share of answers that equal the annotation exactly.
        whole: answers that are not empty, cut, withheld, aborted, full of markup or an echo of the question.
    """

    answered: int
    empty: int
    missing: dict[str, int]
    unscored: dict[str, int]
    words: float | None
    exact: float | None
    faults: dict[str, int] = field(default_factory=dict)
    whole: int = 0

    def trouble(self) -> list[str]:
        """Return warnings that a reader needs before the numbers, worst first; usually none."""
        found = [f"{self.empty:,} of {self.answered:,} answers are empty"] if self.empty else []
        found += [f"{count:,} {FAULTS[fault]}" for fault, count in self.faults.items()]
        found += [f"{count:,} without an answer ({reason})" for reason, count in self.missing.items()]
        return found


FAULTS = {
    "cut": "cut by the limit of tokens",
    "filtered": "withheld by a filter",
    "aborted": "aborted by the server",
    "leaked": "with chat markup in them",
    "echo": "that repeat the question",
    "declined": "declined",
}
"""What a count of each fault is called; empty answers are counted apart."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of one evaluation.

    Attributes:
        contestants: names, in the order of tables.
        samples: number of samples.
        tasks: task -> its means.
        reward: contestant -> mean reward over all samples that can be compared.
        wins: win rates by reward, over the samples of all tasks.
        controlled: row -> column -> the same at equal length.
        yes_no: contestant -> how it answers yes-or-no questions; empty if there are none.
        choices: what contestants pick in multiple-choice questions; None if nobody was asked.
        text_only: the model that the tax is measured against; "" for none.
        tax: metric -> contestant (without the annotations) -> its tax.
        answers: contestant -> counts of its answers.
        resampling: how intervals were made.
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
    controlled: dict[str, dict[str, LengthControlled]] = field(default_factory=dict)
    yes_no: dict[str, YesNo] = field(default_factory=dict)
    choices: MultipleChoice | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return dataclasses.asdict(self)

    def mean(self, contestant: str, metric: str, task: str) -> float | None:
        """Return a mean from the tables, or None."""
        found = self.tasks[task].means.get(metric, {}).get(contestant)
        return found.value if found else None


def summarise(
    judged: Judged, *, text_only: str = "", resampling: Resampling | None = None, difficulty: bool = False
) -> Results:
    """Summarise the scores of an evaluation.

    Args:
        judged: the scores of all samples.
        text_only: the contestant that the alignment tax is measured against; "" for no tax.
        resampling: how intervals are made.
        difficulty: see `length_controlled_rates`.

    Raises:
        ValueError: `text_only` is not a contestant.
    """
    resampling = resampling or Resampling()
    names = judged.contestants
    if text_only and text_only not in names:
        raise ValueError(f"text_only names {text_only!r}, which is not a contestant ({', '.join(names)})")
    numbers = {metric: matrix([judged.scores[name][metric] for name in names]) for metric in METRICS}
    places = {
        task: np.flatnonzero(np.array(judged.tasks, dtype=object) == task) for task in dict.fromkeys(judged.tasks)
    }
    numbers["reward"] = _rewards(judged)
    words_CN, win_rewards_CN = _about(judged, "words"), _win_rewards(judged)
    rewards_CN = np.full((len(names), len(judged.keys)), np.nan)
    for where in places.values():
        rewards_CN[:, where] = shared(numbers["reward"][:, where])
    return Results(
        contestants=names,
        samples=len(judged.keys),
        tasks={
            task: _task(
                {metric: numbers[metric][:, where] for metric in METRICS}, words_CN[:, where], names, resampling, stream
            )
            for stream, (task, where) in enumerate(places.items())
        },
        reward=dict(zip(names, intervals(rewards_CN, resampling), strict=True)),
        wins=win_rates(win_rewards_CN, names, resampling),
        controlled=length_controlled_rates(win_rewards_CN, words_CN, names, resampling, difficulty=difficulty),
        yes_no=_yes_no(judged, words_CN, resampling),
        text_only=text_only,
        tax=_taxes(numbers, places, names, text_only, resampling) if text_only else {},
        answers={name: _answers(judged, name) for name in names},
        resampling=resampling,
    )


def _task(
    numbers: Mapping[str, np.ndarray], words_CN: np.ndarray, names: tuple[str, ...], resampling: Resampling, stream: int
) -> TaskResult:
    means: dict[str, dict[str, Estimate]] = {}
    left_out: dict[str, int] = {}
    for metric, values_CN in numbers.items():
        common_CN = shared(values_CN)
        any_N = np.isfinite(values_CN).any(axis=0)
        if any_N.any():
            found = zip(names, intervals(common_CN, resampling, stream), strict=True)
            means[metric] = {name: one for name, one in found if one.n}
            left_out[metric] = int((any_N & ~np.isfinite(common_CN).any(axis=0)).sum())
    words = {name: _mean(words_N) for name, words_N in zip(names, words_CN, strict=True)}
    return TaskResult(samples=numbers["reward"].shape[1], means=means, left_out=left_out, words=words)


def _mean(values_N: np.ndarray) -> float | None:
    known_N = values_N[np.isfinite(values_N)]
    return float(known_N.mean()) if known_N.size else None


def _yes_no(judged: Judged, words_CN: np.ndarray, resampling: Resampling) -> dict[str, YesNo]:
    """Measure all contestants but the annotations, which are the truth."""
    if RAW not in judged.contestants:
        return {}
    said_CN, raw = _about(judged, "yes"), judged.contestants.index(RAW)
    others = [row for row, name in enumerate(judged.contestants) if name not in (RAW, REWRITTEN)]
    names = [judged.contestants[row] for row in others]
    return yes_no(said_CN[raw], said_CN[others], words_CN[others], names, resampling)


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
            if name not in (text_only, RAW, REWRITTEN)  # annotations are not models
        }
        taxes[metric] = {name: tax for name, tax in found.items() if tax.tasks}
    return {metric: found for metric, found in taxes.items() if found}


def _rewards(judged: Judged) -> np.ndarray:
    """Return rewards (C, N). An empty answer gets the lowest of all: reward models are not trained on empty texts."""
    rewards_CN = matrix([judged.scores[name]["reward"] for name in judged.contestants])
    known = rewards_CN[np.isfinite(rewards_CN)]
    return np.where(_about(judged, "empty") == 1, known.min(), rewards_CN) if known.size else rewards_CN


def _win_rewards(judged: Judged) -> np.ndarray:
    """Return rewards (C, N), shifted so that whole answers rank above all others, and empty ones below."""
    rewards_CN = _rewards(judged)
    known = rewards_CN[np.isfinite(rewards_CN)]
    span = float(known.max() - known.min()) + 1 if known.size else 0.0
    lower_CN = (_about(judged, "whole") == 0).astype(float) + (_about(judged, "empty") == 1)
    return rewards_CN - span * lower_CN


def _about(judged: Judged, what: str) -> np.ndarray:
    """Return one of `judging.ABOUT` (C, N); NaN if unknown."""
    unknown: list[float | None] = [None] * len(judged.keys)
    return matrix([judged.scores[name].get(what, unknown) for name in judged.contestants])


def _answers(judged: Judged, name: str) -> Answers:
    counted = judged.faults.get(name, {})
    words = [count for count in judged.scores[name]["words"] if count is not None]
    exact = [one for one in judged.scores[name]["exact"] if one is not None]
    whole = judged.scores[name].get("whole", words)
    return Answers(
        answered=len(words),
        empty=counted.get("empty", sum(count == 0 for count in words)),
        faults={fault: counted[fault] for fault in FAULTS if fault in counted},
        missing=judged.missing[name],
        unscored=judged.unscored[name],
        words=sum(words) / len(words) if words else None,
        exact=sum(exact) / len(exact) if exact else None,
        whole=sum(one != 0.0 for one in whole if one is not None),
    )
