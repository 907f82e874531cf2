"""The estimate of label noise against flips that are known, on questions about drawn scenes and on bare numbers."""

from __future__ import annotations

import numpy as np
import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.noise import differing_share, even_rate, flip_rate, noise
from polite_flamingo.preference.audit.people import Labels
from tests.support import planted_judges as planted


@pytest.mark.parametrize("readings", [2, 3, 5])
@pytest.mark.parametrize("flips", [0.0, 0.1, 0.25])
def test_it_is_within_five_points_of_the_true_flip_rate_on_shapes(flips: float, readings: int) -> None:
    """Every request turns the order of its ratings round with the given probability."""
    settings = AuditSettings(resampling=Resampling(draws=20))
    collected = Collected(settings=settings)
    for sample in planted.rated(
        400, planted.exact, orders=1, samples=readings, blind=0, alone=False, flips=flips, seed=1
    ):
        collected.add(sample, "shard")
    [found] = [one.found for one in noise(gather(collected, Labels())).measures if one.name == "label noise"]
    assert found.value == pytest.approx(flips, abs=0.05)
    assert found.n == 400


def readings_of(rates_N: np.ndarray, readings: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Readings on the smaller side, and of all, of choices with these flip rates."""
    wrong_N = np.random.default_rng(seed).binomial(readings, rates_N)
    return np.minimum(wrong_N, readings - wrong_N).astype(float), np.full(len(rates_N), float(readings))


@pytest.mark.parametrize("readings", [2, 3, 4, 8])
def test_uneven_noise_is_within_five_points_too(readings: int) -> None:
    """Some choices are easy and others a coin toss: judging them all alike would miss the most here."""
    rates_N = np.random.default_rng(1).uniform(0, 0.5, 2000)
    assert flip_rate(*readings_of(rates_N, readings)) == pytest.approx(rates_N.mean(), abs=0.05)


def test_the_true_rate_lies_between_the_two_extremes() -> None:
    rates_N = np.repeat([0.0, 0.5], 2000)
    less_N, all_N = readings_of(rates_N, 3)
    differing = differing_share(less_N, all_N)
    assert even_rate(differing) < 0.25 <= differing + 0.02, "each choice is certain or a coin toss"
    assert even_rate(2 * 0.1 * 0.9) == pytest.approx(0.1) and even_rate(0.6) == 0.5


def test_differing_readings_are_counted_in_pairs() -> None:
    less_N, all_N = np.array([0.0, 1.0]), np.array([2.0, 3.0])  # of 2 readings none differ, of 3 one does
    assert differing_share(less_N, all_N) == pytest.approx((2 * 0 + 3 * (2 / 3)) / 5)
