"""Who is preferred to whom, and how often: the share of samples on which the reward of one answer is the greater.

Only whole answers are preferred: one that is cut, withheld or full of markup loses to any that is not, and an empty one
to all (`results.py` moves the rewards so).

[PF] section 5 compares models by it, as a difference of mean rewards has no scale that people know. A tie counts half
for either, so that two rates of a pair add up to one; how many ties there were is told beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimates, resampled_means


@dataclass(frozen=True, kw_only=True)
class WinRates:
    """Of every contestant (row) against every other (column).

    Attributes:
        rates: row -> column -> share of samples; its `n` is how many have both rewards.
        ties: row -> column -> share of samples with equal rewards, None where there is no sample.
    """

    rates: dict[str, dict[str, Estimate]]
    ties: dict[str, dict[str, float | None]]


def win_rates(rewards_CN: np.ndarray, contestants: Sequence[str], resampling: Resampling) -> WinRates:
    """Compare all pairs on the samples that both answered.

    Args:
        rewards_CN: not-a-number where a contestant has none.
        contestants: of the rows.
        resampling: of the samples, the same draws for all pairs.
    """
    count = len(contestants)
    first, second = np.triu_indices(count, k=1)
    a_PN, b_PN = rewards_CN[first], rewards_CN[second]
    both_PN = np.isfinite(a_PN) & np.isfinite(b_PN)
    outcomes_PN = np.where(both_PN, np.where(a_PN == b_PN, 0.5, a_PN > b_PN), np.nan)
    means_PR = resampled_means(outcomes_PN, resampling)
    found = estimates(outcomes_PN, means_PR, resampling.confidence)
    rates: dict[str, dict[str, Estimate]] = {name: {} for name in contestants}
    ties: dict[str, dict[str, float | None]] = {name: {} for name in contestants}
    for pair, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        row, column, rate = contestants[one], contestants[other], found[pair]
        rates[row][column], rates[column][row] = rate, _against(rate)
        tied = float((outcomes_PN[pair] == 0.5).sum() / rate.n) if rate.n else None
        ties[row][column] = ties[column][row] = tied
    ordered = {name: {other: rates[name][other] for other in contestants if other != name} for name in contestants}
    return WinRates(rates=ordered, ties=ties)


def _against(rate: Estimate) -> Estimate:
    """The same pair from the other side."""
    if rate.value is None or rate.low is None or rate.high is None:
        return Estimate(value=None if rate.value is None else 1 - rate.value, low=None, high=None, n=rate.n)
    return Estimate(value=1 - rate.value, low=1 - rate.high, high=1 - rate.low, n=rate.n)
