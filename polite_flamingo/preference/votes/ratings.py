"""Ratings from pairwise votes: Bradley–Terry on the arenas' Elo scale, with bootstrap intervals.

The probability that i beats j is 1 / (1 + 10^((r_j - r_i) / 400)) (Bradley and Terry 1952). The ratings r maximise the
likelihood of all votes at once, so their order does not matter, as it does in Elo's updates. A tie, and "both bad",
count half a win for each side, as in Chatbot Arena (Chiang et al. 2024, arXiv 2403.04132). The mean rating is 1000.

Whoever won every battle has no finite rating of the highest likelihood. So `PRIOR` wins are added to both sides of
every two that met, which moves ratings of many votes by next to nothing. An interval resamples battles with all their
votes: two votes on one battle are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate

MEAN, SCALE = 1000.0, 400.0 / math.log(10.0)
PRIOR = 0.5
"""Wins added to each side of every two that met; half a win is the usual correction of log odds (Haldane 1956)."""

STEP = 3.0
"""Longest step of Newton's method, in natural units: far from the optimum it would overshoot."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """The votes on one battle: how many found `first` better, how many `second`, and how many neither."""

    first: str
    second: str
    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def votes(self) -> int:
        """Number of votes."""
        return self.wins + self.losses + self.ties


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A model's rating; `rating` has None where it never met, even indirectly, most of the others.

    Its `n` counts battles; `wins`, `losses` and `ties` are votes.
    """

    name: str
    rating: Estimate
    wins: int
    losses: int
    ties: int


def ratings(matches: Sequence[Match], resampling: Resampling, prior: float = PRIOR) -> list[Rated]:
    """Rate everybody who took part, the best first.

    Args:
        matches: one per battle; a battle of a model against itself says nothing and is left out.
        resampling: of the intervals.
        prior: see `PRIOR`; with 0 somebody must have lost, and somebody won, in every group that met.
    """
    matches = [one for one in matches if one.first != one.second and one.votes]
    names = sorted({name for one in matches for name in (one.first, one.second)})
    if not names:
        return []
    place = {name: number for number, name in enumerate(names)}
    pairs_N2 = np.array([(place[one.first], place[one.second]) for one in matches])
    points_N2 = np.array([(one.wins + one.ties / 2, one.losses + one.ties / 2) for one in matches])
    met_MM = _points(pairs_N2, np.ones_like(points_N2), len(names)) > 0
    inside = _together(met_MM)
    value_M = bradley_terry(_points(pairs_N2, points_N2, len(names)) + prior * met_MM)
    rng = np.random.default_rng(resampling.seed)
    draws_RM = np.empty((resampling.draws, len(names)))
    for draw_M in draws_RM:
        times_N = np.bincount(rng.integers(0, len(matches), len(matches)), minlength=len(matches))
        draw_M[:] = bradley_terry(_points(pairs_N2, points_N2 * times_N[:, None], len(names)) + prior * met_MM)
    found = []
    for number, name in enumerate(names):
        mine = [one for one in matches if name in (one.first, one.second)]
        shift = MEAN - value_M[inside].mean()
        shifts_R = MEAN - draws_RM[:, inside].mean(axis=1)
        rating = estimate(
            float(value_M[number] + shift) if number in inside else None,
            draws_RM[:, number] + shifts_R,
            len(mine),
            resampling.confidence,
        )
        found.append(
            Rated(
                name=name,
                rating=rating,
                wins=sum(one.wins if one.first == name else one.losses for one in mine),
                losses=sum(one.losses if one.first == name else one.wins for one in mine),
                ties=sum(one.ties for one in mine),
            )
        )
    return sorted(found, key=lambda one: (one.rating.value is None, -(one.rating.value or 0.0), one.name))


def bradley_terry(wins_MM: np.ndarray) -> np.ndarray:
    """Return ratings of the highest likelihood, by Newton's method; the mean is 1000.

    Args:
        wins_MM: [i, j] is how often i beat j; fractions are allowed.
    """
    met_MM = wins_MM + wins_MM.T
    strength_M = np.zeros(len(wins_MM))
    for _ in range(100):
        chance_MM = 1 / (1 + np.exp(strength_M[None, :] - strength_M[:, None]))
        slope_M = (wins_MM - met_MM * chance_MM).sum(axis=1)
        weight_MM = met_MM * chance_MM * (1 - chance_MM)
        curve_MM = np.diag(weight_MM.sum(axis=1)) - weight_MM
        # The curvature is singular where strengths may all move together; the least step leaves their mean alone.
        step_M = np.linalg.lstsq(curve_MM, slope_M, rcond=1e-12)[0]
        longest = float(np.abs(step_M).max(initial=0.0))
        strength_M = strength_M + step_M * min(1.0, STEP / longest if longest else 1.0)
        if longest < 1e-11:
            break
    return MEAN + SCALE * (strength_M - strength_M.mean())


def _points(pairs_N2: np.ndarray, points_N2: np.ndarray, count: int) -> np.ndarray:
    """Return a matrix of wins: [i, j] is how often i beat j."""
    wins_MM = np.zeros((count, count))
    np.add.at(wins_MM, (pairs_N2[:, 0], pairs_N2[:, 1]), points_N2[:, 0])
    np.add.at(wins_MM, (pairs_N2[:, 1], pairs_N2[:, 0]), points_N2[:, 1])
    return wins_MM


def _together(met_MM: np.ndarray) -> list[int]:
    """Return the largest group whose members met each other, directly or through others."""
    groups: list[list[int]] = []
    left = set(range(len(met_MM)))
    while left:
        group, pending = [], [min(left)]
        while pending:
            one = pending.pop()
            if one in left:
                left.remove(one)
                group.append(one)
                pending += np.flatnonzero(met_MM[one]).tolist()
        groups.append(sorted(group))
    return max(groups, key=len)
