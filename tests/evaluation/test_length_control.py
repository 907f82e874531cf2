"""Length-controlled win rates find what is left of a preference when length is taken out of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.length_control import (
    SLOPE_PENALTY,
    LengthControlled,
    length_controlled,
    length_controlled_rates,
)

FEW, MANY = Resampling(draws=50), Resampling(draws=300)


def judged(n: int, *, better: float, by_length: float, longer: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Verdicts of a judge who weighs quality and length: outcomes, lengths of a and of b."""
    rng = np.random.default_rng(seed)
    b_N = rng.normal(100, 20, n)
    a_N = b_N + rng.normal(longer, 20, n)
    difference_N = a_N - b_N
    logits_N = better + by_length * np.tanh(difference_N / difference_N.std())
    return (rng.random(n) < 1 / (1 + np.exp(-logits_N))).astype(float), a_N, b_N


def inside(found: LengthControlled, rate: float) -> bool:
    low, high = found.rate.low, found.rate.high
    return low is not None and high is not None and low <= rate <= high


def test_a_model_that_wins_by_length_alone_wins_half_without_it() -> None:
    outcomes_N, a_N, b_N = judged(2000, better=0.0, by_length=2.0, longer=25)
    found = length_controlled(outcomes_N, a_N, b_N, MANY)
    assert outcomes_N.mean() > 0.7, "the raw rate is bought with words"
    assert found.rate.value == pytest.approx(0.5, abs=0.04) and inside(found, 0.5) and found.rate.n == 2000
    assert found.slope.value == pytest.approx(2.0, abs=0.4) and (found.slope.low or 0) > 0


def test_a_better_model_stays_better() -> None:
    outcomes_N, a_N, b_N = judged(2000, better=1.0, by_length=0.0, longer=25)
    found = length_controlled(outcomes_N, a_N, b_N, MANY)
    assert found.rate.value == pytest.approx(1 / (1 + np.exp(-1)), abs=0.05)
    assert found.slope.low is not None and found.slope.high is not None and found.slope.low < 0 < found.slope.high


def test_equal_lengths_change_nothing() -> None:
    outcomes_N = np.array([1, 1, 0.5, 0] * 10)
    found = length_controlled(outcomes_N, np.full(40, 7.0), np.full(40, 5.0), FEW)
    assert found.rate.value == pytest.approx(outcomes_N.mean(), abs=1e-3)


def test_it_is_the_maximum_of_the_likelihood() -> None:
    """As a general optimiser finds it, ties included."""
    optimize = pytest.importorskip("scipy.optimize")
    outcomes_N, a_N, b_N = judged(500, better=0.4, by_length=1.0, longer=10)
    outcomes_N[:50] = 0.5
    difference_N = np.tanh((a_N - b_N) / (a_N - b_N).std())

    def loss(fitted: np.ndarray) -> float:
        logits_N = fitted[0] + fitted[1] * difference_N
        return float((np.logaddexp(0, logits_N) - outcomes_N * logits_N).sum() + SLOPE_PENALTY / 2 * fitted[1] ** 2)

    theta, phi = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    found = length_controlled(outcomes_N, a_N, b_N, FEW)
    assert found.slope.value == pytest.approx(phi, abs=1e-3)
    assert found.rate.value == pytest.approx(1 / (1 + np.exp(-theta)), abs=1e-4)


def test_difficulty_takes_its_share_of_the_noise() -> None:
    rng = np.random.default_rng(1)
    hard_N = rng.normal(0, 1, 3000)
    _, a_N, b_N = judged(3000, better=0, by_length=0, longer=10)
    logits_N = 0.5 + np.tanh((a_N - b_N) / (a_N - b_N).std()) + 2 * hard_N
    outcomes_N = (rng.random(3000) < 1 / (1 + np.exp(-logits_N))).astype(float)
    plain, full = (length_controlled(outcomes_N, a_N, b_N, FEW, given_N) for given_N in (None, hard_N))
    assert plain.slope.value is not None and full.slope.value is not None
    assert abs(full.slope.value - 1) < abs(plain.slope.value - 1), "leaving a cause out flattens the slope"
    truth = float((1 / (1 + np.exp(-(0.5 + 2 * hard_N)))).mean())
    assert full.rate.value == pytest.approx(truth, abs=0.03)


def test_all_pairs_are_compared_and_both_sides_add_up() -> None:
    rng = np.random.default_rng(0)
    rewards_CN, lengths_CN = rng.normal(size=(3, 60)), rng.integers(1, 30, size=(3, 60)).astype(float)
    rewards_CN[2, :10] = np.nan
    for difficulty in (False, True):
        found = length_controlled_rates(rewards_CN, lengths_CN, ["a", "b", "c"], FEW, difficulty=difficulty)
        assert list(found["b"]) == ["a", "c"] and found["a"]["c"].rate.n == 50
        for one in "abc":
            for other, here in found[one].items():
                there = found[other][one]
                assert here.rate.value is not None and there.rate.value == pytest.approx(1 - here.rate.value)
                assert here.slope == there.slope


NUMBER = st.sampled_from([0.0, 0.5, 1.0, float("nan")])
LENGTH = st.sampled_from([0.0, 1.0, 5.0, 1e6, float("nan")])


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBER, LENGTH, LENGTH, LENGTH), max_size=12), st.booleans())
def test_whatever_comes_in_a_share_comes_out(rows: list[tuple[float, ...]], with_difficulty: bool) -> None:
    columns = np.array(rows, dtype=float).reshape(-1, 4).T
    found = length_controlled(columns[0], columns[1], columns[2], FEW, columns[3] if with_difficulty else None)
    known = np.isfinite(columns if with_difficulty else columns[:3]).all(axis=0)
    assert found.rate.n == known.sum() and (found.rate.value is None) == (not known.any())
    for one in (found.rate, found.slope):
        assert (one.low is None) == (found.rate.n < 2)
        assert all(np.isfinite(end) for end in (one.value, one.low, one.high) if end is not None)
    assert found.rate.value is None or 0 <= found.rate.value <= 1
