"""How far a judge agrees with NLI and with people: Spearman's correlation and Cohen's kappa, with bootstrap intervals.

- Spearman's rho: Pearson's correlation of the ranks, ties at their mean rank (Spearman 1904).
- Cohen's kappa: agreement beyond chance of two raters (Cohen 1960); of marks with quadratic weights (Cohen 1968), so
  that 4 against 5 counts little and 1 against 5 much.

Both are exact for the numbers given. An interval resamples the pairs; over 10,000 pairs, those of a seeded choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate

MOST_RESAMPLED = 10_000
"""Pairs of which intervals are made: more make them hardly narrower, and take minutes."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two raters of the same texts.

    Attributes:
        mark: what is compared, such as judge_correctness.
        other: with what: "people" (marks), "people: keep" or "NLI".
        spearman: rank correlation; value None if one rater gives all the same number.
        kappa: Cohen's kappa, likewise.
        about: how marks became classes for kappa.
    """

    mark: str
    other: str
    spearman: Estimate
    kappa: Estimate
    about: str

    def row(self) -> tuple[str, str]:
        """Return a line of a table: what is compared, and the numbers with their intervals."""
        numbers = f"Spearman {_words(self.spearman)}, kappa {_words(self.kappa)} ({self.about}), n = {self.kappa.n:,}"
        return f"{self.mark} and {self.other}", numbers

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Agreement:
        """Read what `to_json` wrote."""
        return Agreement(
            **{**record, "spearman": Estimate(**record["spearman"]), "kappa": Estimate(**record["kappa"])}
        )  # fmt: skip


def spearman(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the rank correlation, in [-1, 1]; NaN if either side is constant or there are fewer than two pairs."""
    if len(left_N) < 2:
        return float("nan")
    ranks = [_ranks(side) - (len(side) - 1) / 2 for side in (left_N, right_N)]
    spread = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / spread if spread else float("nan")


def kappa(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return Cohen's kappa with quadratic weights, at most 1; NaN if both sides are one and the same class.

    Of two classes the weights make no difference.

    Args:
        left_N: classes as numbers, such as marks from 1 to 5, or 0 and 1.
        right_N: likewise, of the other rater.
    """
    apart = float(np.mean((left_N - right_N) ** 2)) if len(left_N) else float("nan")
    by_chance = float(left_N.var() + right_N.var() + (left_N.mean() - right_N.mean()) ** 2) if len(left_N) else 0.0
    return 1 - apart / by_chance if by_chance else float("nan")


class Ratings:
    """What the judge and others say of the same texts, collected text by text.

    Attributes:
        judged: number of texts with marks.
        labelled: number of those with a label of a person.
    """

    def __init__(self) -> None:
        self.judged = self.labelled = 0
        self._pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def add(self, marks: Mapping[str, float], nli: float | None, label: Mapping[str, float]) -> None:
        """Add one text.

        Args:
            marks: axis -> the judge's mark.
            nli: margin over contradiction (`thresholds.nli_margin`), if NLI scored the text.
            label: axis -> a person's mark; `keep` -> whether a person would keep the text.
        """
        self.judged += 1
        self.labelled += bool(label)
        if nli is not None and np.isfinite(nli) and "correctness" in marks:
            self._add("correctness", "NLI", marks["correctness"], nli)
        for axis in marks.keys() & label.keys():
            self._add(axis, "people", marks[axis], float(label[axis]))
        quality = [mark for axis, mark in marks.items() if axis != "visual_dependency"]
        if "keep" in label and quality:
            self._add("lowest mark", "people: keep", min(quality), float(label["keep"]))

    def pairs(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yield what is compared, with what, and the pairs of numbers (N, 2)."""
        for (mark, other), found in sorted(self._pairs.items()):
            yield mark, other, np.asarray(found)

    def _add(self, mark: str, other: str, left: float, right: float) -> None:
        self._pairs.setdefault((mark, other), []).append((left, right))


def agreements(ratings: Ratings, good: int, resampling: Resampling | None = None) -> list[Agreement]:
    """Compare the judge with everyone else.

    Args:
        ratings: of the same texts.
        good: marks from this on count as good where only good and bad are compared.
        resampling: of the intervals.
    """
    resampling = resampling or Resampling()
    found = []
    for mark, other, pairs_N2 in ratings.pairs():
        left_N, right_N = pairs_N2[:, 0], pairs_N2[:, 1]
        if other == "people":
            classes, about = (left_N, right_N), "marks, quadratic weights"
        else:
            classes = ((left_N >= good).astype(float), (right_N > 0).astype(float))
            about = f"marks from {good} on against " + ("no contradiction" if other == "NLI" else "keep")
        found.append(
            Agreement(
                mark=mark,
                other=other,
                spearman=measured(spearman, left_N, right_N, resampling),
                kappa=measured(kappa, *classes, resampling),
                about=about,
            )
        )
    return found


def measured(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    left_N: np.ndarray, right_N: np.ndarray, resampling: Resampling,
) -> Estimate:  # fmt: skip
    """Return a statistic of pairs, such as `kappa`, with its bootstrap interval; value None where it is NaN."""
    value, n = statistic(left_N, right_N), len(left_N)
    rng = np.random.default_rng(resampling.seed)
    some = rng.choice(n, MOST_RESAMPLED, replace=False) if n > MOST_RESAMPLED else np.arange(n)
    draws = []
    for _ in range(resampling.draws if n > 1 else 0):
        picked = some[rng.integers(0, len(some), len(some))]
        draws.append(statistic(left_N[picked], right_N[picked]))
    return estimate(value if np.isfinite(value) else None, np.asarray(draws), n, resampling.confidence)


def _words(one: Estimate) -> str:
    if one.value is None:
        return "-"
    return f"{one.value:.2f}" + (f" [{one.low:.2f}, {one.high:.2f}]" if one.low is not None else "")


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Return ranks from 0, ties at their mean rank."""
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[place_N]
