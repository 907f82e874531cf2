"""Win rates: the share of samples on which one contestant's answer has the higher reward.

An answer that is cut, withheld or full of markup loses to any whole answer, and an empty one to all (`results.py`
shifts the rewards).

[PF] section 5 compares models this way because differences of mean rewards have no familiar scale. A tie counts half
for both, so the two rates of a pair add up to one; the share of ties is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimates, resampled_means


@dataclass(frozen=True, kw_only=True)
class WinRates:
    """Win rates of every contestant (row) against every other (column).

    Attributes:
        rates: row -> column -> share of samples; its `n` counts samples with both rewards.
        ties: row -> column -> share of samples with equal rewards; None without samples.
    """

    rates: dict[str, dict[str, Estimate]]
    ties: dict[str, dict[str, float | None]]


def win_rates(rewards_CN: np.ndarray, contestants: Sequence[str], resampling: Resampling) -> WinRates:
    """Compare all pairs on the samples that both answered.

    Args:
        rewards_CN: one row per contestant, NaN if it has no reward for a sample.
        contestants: names of the rows.
        resampling: how intervals are made; all pairs use the same draws.
    """
    count = len(contestants)
    first, second = np.triu_indices(count, k=1)
    outcomes_PN = outcomes(rewards_CN[first], rewards_CN[second])
    means_PR = resampled_means(outcomes_PN, resampling)
    found = estimates(outcomes_PN, means_PR, resampling.confidence)
    rates: dict[str, dict[str, Estimate]] = {name: {} for name in contestants}
    ties: dict[str, dict[str, float | None]] = {name: {} for name in contestants}
    for pair, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        row, column, rate = contestants[one], contestants[other], found[pair]
        rates[row][column], rates[column][row] = rate, other_side(rate)
        tied = float((outcomes_PN[pair] == 0.5).sum() / rate.n) if rate.n else None
        ties[row][column] = ties[column][row] = tied
    ordered = {name: {other: rates[name][other] for other in contestants if other != name} for name in contestants}
    return WinRates(rates=ordered, ties=ties)


def outcomes(rewards: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return 1 where a reward is the higher one, 0 where the other's is, 0.5 for a tie, NaN where either is missing."""
    both = np.isfinite(rewards) & np.isfinite(others)
    return np.where(both, np.where(rewards == others, 0.5, rewards > others), np.nan)


def other_side(rate: Estimate) -> Estimate:
    """Return the win rate of the other side of the pair."""
    value, low, high = (None if one is None else 1 - one for one in (rate.value, rate.high, rate.low))
    return Estimate(value=value, low=low, high=high, n=rate.n)
