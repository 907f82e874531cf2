"""Means, histograms and what-if curves that merge exactly, in any order.

Scores have four decimals, so everything is counted in whole ten-thousandths. The size of a histogram depends on the
range of the scores, not on their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.thresholds import COMPARISONS, Comparison

UNIT = 10_000
"""Units per 1: scores are stored with four decimals."""


@dataclass(kw_only=True)
class Mean:
    """A mean that merges exactly."""

    count: int = 0
    units: int = 0

    def add(self, value: float) -> None:
        """Add a value with up to four decimals."""
        self.count += 1
        self.units += round(value * UNIT)

    def merge(self, other: Mean) -> None:
        """Add the other's values."""
        self.count += other.count
        self.units += other.units

    @property
    def value(self) -> float | None:
        """The mean; None without values."""
        return self.units / UNIT / self.count if self.count else None


@dataclass(kw_only=True)
class Histogram:
    """Counts in bins of fixed width; empty bins are not stored.

    Bin i holds [i * step, (i + 1) * step), or ((i - 1) * step, i * step] with `upper`. At edges, the first kind gives
    exact counts for "at least" and "below", the second for "above" and "at most".
    """

    step: float
    upper: bool = False
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Add a value with up to four decimals."""
        self.bins[self.bin(value)] += 1

    def bin(self, value: float) -> int:
        """Return the number of a value's bin."""
        units, width = round(value * UNIT), round(self.step * UNIT)
        return -(-units // width) if self.upper else units // width

    def merge(self, other: Histogram) -> None:
        """Add the other's counts."""
        assert (self.step, self.upper) == (other.step, other.upper)
        self.bins.update(other.bins)

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.bins.values())

    def satisfying(self, comparison: Comparison, threshold: float | None) -> int:
        """Count the values that pass a threshold, which must lie on an edge of the bins; None passes all."""
        if threshold is None:
            return self.total
        edge = self.bin(threshold)
        passes = COMPARISONS[comparison]
        return sum(count for number, count in self.bins.items() if passes(number, edge))


@dataclass(kw_only=True)
class Curve:
    """A what-if curve: the effect of every value of one threshold.

    Attributes:
        scores: scores of all samples that the check applies to.
        deciding: scores of those that every other check keeps; this threshold decides only on them.
        kept: number of `scores` whose samples are kept.
        unscored: number of samples that the check applies to but that have no score.
    """

    scores: Histogram
    deciding: Histogram
    kept: int = 0
    unscored: int = 0

    def merge(self, other: Curve) -> None:
        """Add the other's samples."""
        self.scores.merge(other.scores)
        self.deciding.merge(other.deciding)
        self.kept += other.kept
        self.unscored += other.unscored


def histogram_of(record: Mapping[str, Any]) -> Histogram:
    """Read a histogram from its JSON record."""
    bins = Counter({int(number): count for number, count in record["bins"].items()})
    return Histogram(step=record["step"], upper=record["upper"], bins=bins)
