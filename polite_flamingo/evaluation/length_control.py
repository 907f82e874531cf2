"""Length-controlled win rates: how often one model would be preferred if both answers were equally long.

As AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): a logistic regression explains who is preferred by the models,
by the difference of lengths and, if wanted, by how hard the instruction is,

    P(a is preferred to b on x) = σ(θ + φ · tanh((length of a − length of b) / s) + ψ · difficulty of x),

s being the standard deviation of the difference. The rate is the mean prediction with the middle term left out.
Judges prefer long answers, so a raw win rate can be bought with words; this one removes what length alone explains, and
nothing else. φ tells how much that is: the log-odds that the longer side gains at a difference of many standard
deviations; 0 if length does not matter.

Ties count half. Weak ridge penalties keep the numbers finite if one side always wins or length decides everything.
AlpacaEval fits all models of its leaderboard together; here each pair has a fit of its own, and intervals resample the
samples of the pair and fit again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import MAX_WEIGHTS, Estimate, Resampling, estimate
from polite_flamingo.evaluation.win_rate import other_side, outcomes

SLOPE_PENALTY = 0.5
"""Ridge penalty of the slopes: what one sample says weighs about as much, so it fades with their number. Ours."""

INTERCEPT_PENALTY = 1e-4
"""The same for θ, only to keep it finite if one side always wins. Ours."""

MOST_SAMPLES = 10_000
"""Samples of which intervals are made; more make them hardly narrower, and take minutes."""

_STEPS = 50
_LONGEST_STEP = 4.0
"""Newton's method may overshoot where the sides are nearly separable."""


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """One contestant against another.

    Attributes:
        rate: length-controlled win rate.
        slope: φ, positive if longer answers are preferred; the same for both sides of a pair.
    """

    rate: Estimate
    slope: Estimate

    def other_side(self) -> LengthControlled:
        """Return the same for the other contestant."""
        return LengthControlled(rate=other_side(self.rate), slope=self.slope)


def length_controlled(
    outcomes_N: np.ndarray,
    lengths_a_N: np.ndarray,
    lengths_b_N: np.ndarray,
    resampling: Resampling,
    difficulty_N: np.ndarray | None = None,
) -> LengthControlled:
    """Fit one pair.

    Args:
        outcomes_N: 1 where a is preferred, 0 where b is, 0.5 for a tie; NaN for samples that do not count.
        lengths_a_N: lengths of a's answers in any unit, such as words.
        lengths_b_N: lengths of b's answers.
        resampling: how intervals are made.
        difficulty_N: how hard each sample is, in any unit; None leaves the term out.
    """
    known_N = np.isfinite(outcomes_N) & np.isfinite(lengths_a_N) & np.isfinite(lengths_b_N)
    if difficulty_N is not None:
        known_N &= np.isfinite(difficulty_N)
    n = int(known_N.sum())
    if not n:
        nothing = Estimate(value=None, low=None, high=None, n=0)
        return LengthControlled(rate=nothing, slope=nothing)
    columns = [np.ones(n), np.tanh(_standardised(lengths_a_N[known_N] - lengths_b_N[known_N], centred=False))]
    if difficulty_N is not None:
        columns.append(_standardised(difficulty_N[known_N], centred=True))
    design_NK, known_outcomes_N = np.stack(columns, axis=1), outcomes_N[known_N]
    whole_1K = _fit(design_NK, known_outcomes_N, np.ones((1, n)), np.zeros((1, design_NK.shape[1])))
    rates, slopes = [], []
    for weights_RN, part in _draws(n, resampling):
        start_RK = np.repeat(whole_1K, len(weights_RN), axis=0)
        fitted_RK = _fit(design_NK[part], known_outcomes_N[part], weights_RN, start_RK)
        rates.append(_at_equal_length(design_NK[part], fitted_RK, weights_RN))
        slopes.append(fitted_RK[:, 1])
    rate = float(_at_equal_length(design_NK, whole_1K, np.ones((1, n)))[0])
    ends = [np.concatenate(found) if found else np.zeros(0) for found in (rates, slopes)]
    return LengthControlled(
        rate=estimate(rate, ends[0], n, resampling.confidence),
        slope=estimate(float(whole_1K[0, 1]), ends[1], n, resampling.confidence),
    )


def length_controlled_rates(
    rewards_CN: np.ndarray,
    lengths_CN: np.ndarray,
    contestants: Sequence[str],
    resampling: Resampling,
    *,
    difficulty: bool = False,
) -> dict[str, dict[str, LengthControlled]]:
    """Compare all pairs of contestants on the samples that both answered.

    Args:
        rewards_CN: one row per contestant; the higher reward is preferred. NaN if it has none for a sample.
        lengths_CN: lengths of the answers.
        contestants: names of the rows.
        resampling: how intervals are made.
        difficulty: use the mean reward of all other contestants on a sample as its difficulty, if there are others.

    Returns:
        Row -> column -> win rate of the row against the column.
    """
    found: dict[str, dict[str, LengthControlled]] = {name: {} for name in contestants}
    for one, row in enumerate(contestants):
        for other in range(one + 1, len(contestants)):
            hard_N = _difficulty(np.delete(rewards_CN, [one, other], axis=0)) if difficulty else None
            won_N = outcomes(rewards_CN[one], rewards_CN[other])
            made = length_controlled(won_N, lengths_CN[one], lengths_CN[other], resampling, hard_N)
            found[row][contestants[other]] = made
            found[contestants[other]][row] = made.other_side()
    return {name: {other: found[name][other] for other in contestants if other != name} for name in contestants}


def _difficulty(others_CN: np.ndarray) -> np.ndarray | None:
    """Return the mean reward of other contestants, where a sample has one; None if there are no others."""
    known_CN = np.isfinite(others_CN)
    if not known_CN.any():
        return None
    counts_N = known_CN.sum(axis=0)
    sums_N = np.where(known_CN, others_CN, 0.0).sum(axis=0)
    return np.divide(sums_N, counts_N, out=np.full(len(counts_N), np.nan), where=counts_N > 0)


def _standardised(values_N: np.ndarray, *, centred: bool) -> np.ndarray:
    """Divide by the standard deviation; a difference of lengths keeps its zero, which is where the rate is read."""
    spread = float(values_N.std())
    return (values_N - (values_N.mean() if centred else 0.0)) / spread if spread else np.zeros_like(values_N, float)


def _draws(n: int, resampling: Resampling) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights of samples (draws, N), a few draws at a time, and the samples that they belong to."""
    rng = np.random.default_rng(resampling.seed)
    part = rng.choice(n, MOST_SAMPLES, replace=False) if n > MOST_SAMPLES else np.arange(n)
    at_once = max(1, MAX_WEIGHTS // len(part))
    for start in range(0, resampling.draws if n > 1 else 0, at_once):
        count = min(at_once, resampling.draws - start)
        yield rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=count).astype(float), part


def _fit(design_NK: np.ndarray, outcomes_N: np.ndarray, weights_RN: np.ndarray, start_RK: np.ndarray) -> np.ndarray:
    """Fit a logistic regression per row of weights by Newton's method; return the coefficients (R, K)."""
    fitted_RK = start_RK.copy()
    width = design_NK.shape[1]
    penalty_K = np.array([INTERCEPT_PENALTY] + [SLOPE_PENALTY] * (width - 1))
    products_NKK = design_NK[:, :, None] * design_NK[:, None, :]
    for _ in range(_STEPS):
        predicted_RN = _sigmoid(fitted_RK @ design_NK.T)
        slope_RK = (weights_RN * (outcomes_N - predicted_RN)) @ design_NK - penalty_K * fitted_RK
        curvature_RN = weights_RN * predicted_RN * (1 - predicted_RN)
        hessian_RKK = (curvature_RN @ products_NKK.reshape(len(design_NK), -1)).reshape(-1, width, width)
        hessian_RKK = hessian_RKK + np.diag(penalty_K)
        step_RK = np.linalg.solve(hessian_RKK, slope_RK[:, :, None])[:, :, 0]
        step_RK = np.clip(step_RK, -_LONGEST_STEP, _LONGEST_STEP)
        fitted_RK += step_RK
        if float(np.abs(step_RK).max()) < 1e-9:
            break
    return fitted_RK


def _at_equal_length(design_NK: np.ndarray, fitted_RK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Return the mean prediction per row of weights with the difference of lengths set to 0."""
    level_NK = design_NK.copy()
    level_NK[:, 1] = 0.0
    predicted_RN = _sigmoid(fitted_RK @ level_NK.T)
    return np.asarray((weights_RN * predicted_RN).sum(axis=1) / weights_RN.sum(axis=1))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
