"""Means, histograms and curves that merge: the sum is the same in whatever order the parts are added.

Scores have four decimals, so that everything is counted in whole ten-thousandths. The size of a histogram depends on
the range of the scores, never on how many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.thresholds import Sense

UNIT = 10_000
"""Parts of one: scores are stored with four decimals."""


@dataclass(kw_only=True)
class Mean:
    """A mean that merges exactly."""

    count: int = 0
    units: int = 0

    def add(self, value: float) -> None:
        """Count one value, of four decimals."""
        self.count += 1
        self.units += round(value * UNIT)

    def merge(self, other: Mean) -> None:
        """Add the other's values."""
        self.count += other.count
        self.units += other.units

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.units / UNIT / self.count if self.count else None


@dataclass(kw_only=True)
class Histogram:
    """Counts in bins of one fixed width, only those that are hit.

    Bin i holds [i * step, (i + 1) * step), or ((i - 1) * step, i * step] with `upper`: "at least" and "below" can be
    answered exactly at the edges of the first kind, "above" and "at most" at those of the second.
    """

    step: float
    upper: bool = False
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Count one value, of four decimals."""
        self.bins[self.bin(value)] += 1

    def bin(self, value: float) -> int:
        """The number of the value's bin."""
        units, width = round(value * UNIT), round(self.step * UNIT)
        return -(-units // width) if self.upper else units // width

    def merge(self, other: Histogram) -> None:
        """Add the other's counts."""
        assert (self.step, self.upper) == (other.step, other.upper)
        self.bins.update(other.bins)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.bins.values())

    def satisfying(self, sense: Sense, threshold: float | None) -> int:
        """How many values are `sense` a threshold that lies on an edge of the bins; all of them where it is None."""
        if threshold is None:
            return self.total
        edge = self.bin(threshold)
        match sense:
            case "at_least":
                return sum(count for number, count in self.bins.items() if number >= edge)
            case "below":
                return sum(count for number, count in self.bins.items() if number < edge)
            case "above":
                return sum(count for number, count in self.bins.items() if number > edge)
            case "at_most":
                return sum(count for number, count in self.bins.items() if number <= edge)


@dataclass(kw_only=True)
class Curve:
    """What one threshold does, for all its values at once.

    Attributes:
        scores: of every sample that the check applies to.
        deciding: of those among them that every other check keeps: only for these does this threshold decide.
        kept: how many of `scores` are kept.
        unscored: how many the check applies to, but without a number.
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
    """Make a histogram of its JSON record."""
    bins = Counter({int(number): count for number, count in record["bins"].items()})
    return Histogram(step=record["step"], upper=record["upper"], bins=bins)
