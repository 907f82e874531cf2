"""The figures of length against what they are defined as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from polite_flamingo.preference.audit.length import auc, either_way, slope_of


def test_the_auc_counts_every_pair_from_both_sides() -> None:
    differences_N = np.array([3.0, -1.0, 2.0, 1.0, -4.0])
    hits = [(a > -b) + 0.5 * (a == -b) for a, b in itertools.product(differences_N, differences_N)]
    assert auc(differences_N) == pytest.approx(np.mean(hits))
    assert auc(np.array([1.0, 2.0])) == 1.0 and auc(np.array([-1.0])) == 0.0
    assert either_way(np.array([-1.0, -2.0])) == 1.0, "shortness explains as much"


def test_the_slope_is_that_of_the_model_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    apart_N = rng.normal(size=20_000)
    first_wins_N = rng.random(20_000) < 1 / (1 + np.exp(-0.8 * apart_N))
    assert slope_of(np.where(first_wins_N, apart_N, -apart_N)) == pytest.approx(0.8, abs=0.05)


def test_the_slope_stays_finite_where_length_explains_everything() -> None:
    assert 3 < slope_of(np.array([1.0, 0.5, 2.0])) < 20
