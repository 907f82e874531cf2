"""Compare two builds of the same input shard by shard: outcomes, scores and the samples on which they differ most.

Samples are joined by shard and key, conversations turn by turn. Memory holds one shard of each build, one number per
turn and metric, and a few samples to look at.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from polite_flamingo.conversations import parts_of
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate, intervals, resampled_means
from polite_flamingo.filters.judge import AXES
from polite_flamingo.filters.thresholds import nli_margin
from polite_flamingo.sample import Sample

Outcome = Literal["kept", "rejected", "quarantined", "absent"]

Difference = Literal["only_first", "only_second", "first_preferred", "second_preferred"]
"""Kinds of samples to look at: only one build keeps them, or both do and one text has the higher reward."""

MAX_SHOWN = 4
"""Samples to look at per kind."""


def _best_paragraph(scores: Mapping[str, Any]) -> float:
    found = [value for value in scores.get("clip_paragraphs") or () if value is not None]
    return max(found, default=math.nan)


def _number(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda scores: math.nan if scores.get(name) is None else float(scores[name])


METRICS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "reward": _number("reward"),
    "STS": _number("sts"),
    "NLI margin": lambda scores: nli_margin(scores.get("nli")),
    "CLIPScore": _best_paragraph,
    "Rouge-L to the annotation": _number("rouge_l"),
    "words": _number("words"),
    **{f"judge: {axis.replace('_', ' ')}": _number(f"judge_{axis}") for axis in AXES},
}
"""Scores whose means are compared, on turns that have the score in both builds."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A turn as one build left it: the single-turn sample with its text and scores, and why it is not kept ("")."""

    sample: Sample
    reason: str

    @property
    def outcome(self) -> Outcome:
        """Whether it is kept."""
        return "rejected" if self.reason else "kept"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample to look at, as each build left it; `apart` is the second reward minus the first."""

    key: str
    apart: float
    first: Judged
    second: Judged


@dataclass(kw_only=True)
class Comparison:
    """What two builds made of the same turns.

    Attributes:
        outcomes: (outcome of the first, of the second) -> number of turns; a sample of which neither has a text is one.
        numbers: metric -> pairs (first, second), one per turn that both scored.
        tasks: task of each of these turns.
        shown: kind -> samples to look at.
    """

    outcomes: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    numbers: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in METRICS})
    tasks: list[str] = field(default_factory=list)
    shown: dict[Difference, list[Shown]] = field(default_factory=lambda: defaultdict(list))

    def add_shard(
        self,
        first: Mapping[str, Judged],
        second: Mapping[str, Judged],
        quarantined: tuple[frozenset[str], frozenset[str]],
    ) -> None:
        """Add one shard.

        Args:
            first: key -> turn of the first build (`judged_turns`).
            second: likewise of the second.
            quarantined: keys of whole samples that each could not process.
        """
        turns = {**first, **second}
        elsewhere = (quarantined[0] | quarantined[1]) - turns.keys() - {key.rpartition("/turn")[0] for key in turns}
        for key in [*turns, *sorted(elsewhere)]:
            one, other = first.get(key), second.get(key)
            pair = (_outcome(one, key, quarantined[0]), _outcome(other, key, quarantined[1]))
            self.outcomes[pair] += 1
            if one is not None and other is not None:
                self._add_pair(key, one, other)

    def win_rate(self, resampling: Resampling, task: str = "") -> Estimate:
        """Return the share of turns on which the second build's text has the higher reward; a tie counts half."""
        pairs = np.array(self.numbers["reward"], dtype=float).reshape(-1, 2)
        if task:
            pairs = pairs[np.array(self.tasks) == task]
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        wins = np.where(pairs[:, 0] == pairs[:, 1], 0.5, pairs[:, 1] > pairs[:, 0])
        return intervals(wins[None, :], resampling)[0]

    def means(self, resampling: Resampling) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
        """Return metric -> means of the first and of the second build, and of the difference; those that occur."""
        found = {}
        for name, numbers in self.numbers.items():
            pairs = np.array(numbers, dtype=float).reshape(-1, 2)
            pairs = pairs[np.isfinite(pairs).all(axis=1)]
            if len(pairs):
                table = np.vstack([pairs.T, pairs[:, 1] - pairs[:, 0]])
                draws, means = resampled_means(table, resampling), table.mean(axis=1)
                one, other, apart = (
                    estimate(float(mean), row, len(pairs), resampling.confidence)
                    for mean, row in zip(means, draws, strict=True)
                )
                found[name] = one, other, apart
        return found

    def _add_pair(self, key: str, one: Judged, other: Judged) -> None:
        self.tasks.append(one.sample.task)
        for name, number in METRICS.items():
            self.numbers[name].append((number(one.sample.scores), number(other.sample.scores)))
        first, second = self.numbers["reward"][-1]
        apart = 0.0 if math.isnan(second - first) else second - first  # without a reward, verdicts alone differ
        shown = Shown(key=key, apart=apart, first=one, second=other)
        if one.outcome != other.outcome:
            self._offer("only_second" if one.reason else "only_first", shown)
        elif not one.reason and apart:
            self._offer("second_preferred" if apart > 0 else "first_preferred", shown)

    def _offer(self, kind: Difference, shown: Shown) -> None:
        """Keep the samples whose rewards lie furthest apart, in either direction."""
        found = [*self.shown[kind], shown]
        self.shown[kind] = heapq.nlargest(MAX_SHOWN, found, key=lambda one: (abs(one.apart), one.key))


def judged_turns(samples: Iterable[Sample], records: Iterable[Mapping[str, Any]]) -> dict[str, Judged]:
    """Return key -> turn, for all turns of a shard's scored samples.

    Args:
        samples: of the scored shard.
        records: the verdicts on them, as a selection writes them.
    """
    verdicts = {record["key"]: record for record in records}
    found = {}
    for sample in samples:
        record = verdicts[sample.key]
        reasons = {turn["turn"]: turn["reason"] for turn in record.get("turns", ())}
        for number, part in parts_of(sample).items():
            found[part.key] = Judged(sample=part, reason=reasons.get(number, record["reason"]))
    return found


def _outcome(judged: Judged | None, key: str, quarantined: frozenset[str]) -> Outcome:
    if judged is not None:
        return judged.outcome
    return "quarantined" if key in quarantined or key.rpartition("/turn")[0] in quarantined else "absent"
