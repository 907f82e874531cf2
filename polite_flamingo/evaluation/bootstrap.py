"""Confidence intervals of means by the percentile bootstrap (Efron 1979), paired over everything that is compared.

Samples are resampled with replacement many times; an interval holds the middle of the resulting means. All rows of a
call use the same draws, so models are compared without the spread that comes from easy and hard samples. The draws are
seeded: the same numbers give the same interval.

The bootstrap knows only the samples: fewer than two give no interval, and if all numbers are equal (every answer
correct) the interval has no width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_WEIGHTS = 1 << 22
"""Most weights held in memory at once (32 MiB)."""


MOST_RESAMPLED = 10_000
"""Rows of which `resampled` makes intervals: more make them hardly narrower, and take minutes."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are made.

    Attributes:
        draws: number of resamplings; with 1000, the ends of a 95 % interval vary by about a tenth of its half-width.
        confidence: share of draws within an interval.
        seed: fixes the draws.
    """

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.confidence < 1:
            raise ValueError("resampling: draws must be at least 1, and confidence between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean of `n` samples with its interval; None if there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def resampled_means(values_KN: np.ndarray, resampling: Resampling, stream: int = 0) -> np.ndarray:
    """Return the mean of each row over each resampling of its columns (samples): (K, draws).

    Args:
        values_KN: numbers, NaN if a row has none for a sample. The mean of a draw without any number is NaN.
        resampling: number of draws and seed.
        stream: number of the table; tables of different samples use different draws.
    """
    rows, n = values_KN.shape
    known_KN = np.isfinite(values_KN)
    filled_NK = np.where(known_KN, values_KN, 0.0).T
    counted_NK = None if known_KN.all() else known_KN.T.astype(float)
    means_KR = np.full((rows, resampling.draws), np.nan)
    rng = np.random.default_rng([resampling.seed, stream])
    for start in range(0, resampling.draws if n else 0, max(1, MAX_WEIGHTS // max(n, 1))):
        stop = min(resampling.draws, start + max(1, MAX_WEIGHTS // n))
        picks_RN = rng.integers(0, n, size=(stop - start, n)) + n * np.arange(stop - start)[:, None]
        weights_RN = np.bincount(picks_RN.ravel(), minlength=picks_RN.size).reshape(picks_RN.shape).astype(float)
        sums_RK = weights_RN @ filled_NK
        counts_RK = weights_RN @ counted_NK if counted_NK is not None else np.full_like(sums_RK, n)
        means_KR[:, start:stop] = np.divide(
            sums_RK, counts_RK, out=np.full_like(sums_RK, np.nan), where=counts_RK > 0
        ).T
    return means_KR


def estimates(values_KN: np.ndarray, means_KR: np.ndarray, confidence: float) -> list[Estimate]:
    """Return the mean of each row, with the interval of its resampled means."""
    found = []
    for values_N, means_R in zip(values_KN, means_KR, strict=True):
        known = values_N[np.isfinite(values_N)]
        value = float(known.mean()) if known.size else None
        found.append(estimate(value, means_R, int(known.size), confidence))
    return found


def estimate(value: float | None, draws_R: np.ndarray, n: int, confidence: float) -> Estimate:
    """Return a value with the interval of its draws; fewer than two samples give no interval."""
    finite = draws_R[np.isfinite(draws_R)]
    if value is None or n < 2 or not finite.size:
        return Estimate(value=value, low=None, high=None, n=n)
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def intervals(values_KN: np.ndarray, resampling: Resampling, stream: int = 0) -> list[Estimate]:
    """Return the mean of each row with its interval, in one step."""
    return estimates(values_KN, resampled_means(values_KN, resampling, stream), resampling.confidence)


def resampled(
    statistic: Callable[..., float], columns: Sequence[np.ndarray], resampling: Resampling,
    clusters_N: np.ndarray | None = None,
) -> Estimate:  # fmt: skip
    """Return any statistic of rows, with its interval; `n` counts what was resampled.

    Args:
        statistic: takes the columns, each at the rows of one draw.
        columns: arrays over the same N rows.
        resampling: of the interval, which is of a seeded choice if there are more than about `MOST_RESAMPLED` rows.
        clusters_N: which rows are resampled together, such as the answers to one prompt, as any numbers; by default
            each row stands alone.
    """
    rows = len(columns[0])
    value = statistic(*columns) if rows else float("nan")
    members, starts, sizes = _grouped(np.arange(rows) if clusters_N is None else clusters_N)
    n = len(sizes)
    rng = np.random.default_rng(resampling.seed)
    most = max(2, MOST_RESAMPLED * n // max(rows, 1))
    some = rng.choice(n, most, replace=False) if n > most else np.arange(n)
    draws = []
    for _ in range(resampling.draws if n > 1 else 0):
        picked = some[rng.integers(0, len(some), len(some))]
        counts = sizes[picked]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        picks = members[np.repeat(starts[picked], counts) + offsets]
        draws.append(statistic(*(column[picks] for column in columns)))
    return estimate(float(value) if np.isfinite(value) else None, np.asarray(draws), n, resampling.confidence)


def _grouped(clusters_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows ordered by cluster, and for each cluster its first place in that order and its size."""
    members = np.argsort(clusters_N, kind="stable")
    _, starts, sizes = np.unique(clusters_N[members], return_index=True, return_counts=True)
    return members, starts, sizes


def shared(values_CN: np.ndarray) -> np.ndarray:
    """Keep only samples on which all contestants can be compared; the rest becomes NaN.

    Contestants without any number are ignored; all others must have one.

    Args:
        values_CN: one row per contestant.
    """
    known_CN = np.isfinite(values_CN)
    taking_part_C = known_CN.any(axis=1)
    common_N = known_CN[taking_part_C].all(axis=0) if taking_part_C.any() else np.zeros(values_CN.shape[1], dtype=bool)
    return np.where(common_N[None, :], values_CN, np.nan)


def matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return numbers as an array (K, N), None as NaN."""
    return np.array([[np.nan if one is None else one for one in row] for row in rows], dtype=float).reshape(
        len(rows), -1 if rows and rows[0] else 0
    )
