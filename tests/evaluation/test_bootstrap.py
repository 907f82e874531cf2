from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.evaluation import bootstrap
from polite_flamingo.evaluation.bootstrap import (
    Estimate,
    Resampling,
    intervals,
    matrix,
    resampled,
    resampled_means,
    shared,
)


@pytest.mark.parametrize("kind", ["share", "normal"])
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str) -> None:
    """400 evaluations of 120 samples each from a world whose mean is known: 95 % of their intervals hold it."""
    rng = np.random.default_rng(5)
    draws = rng.random((400, 120)) < 0.62 if kind == "share" else rng.normal(0.62, 2.0, (400, 120))
    found = intervals(draws.astype(float), Resampling(draws=600))
    held = np.mean([one.low <= 0.62 <= one.high for one in found])  # type: ignore[operator]
    assert 0.91 <= held <= 0.98
    narrow = intervals(draws.astype(float), Resampling(draws=600, confidence=0.5))
    assert 0.40 <= np.mean([one.low <= 0.62 <= one.high for one in narrow]) <= 0.60  # type: ignore[operator]


def test_the_width_is_the_standard_error_s() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, (1, 900))
    [found] = intervals(values, Resampling(draws=4000))
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / (2 * 1.96 * values.std() / 30) == pytest.approx(1.0, abs=0.05)
    assert found.value == pytest.approx(values.mean()) and found.n == 900


def test_rows_share_their_draws_so_that_differences_are_sharp() -> None:
    """Two models on samples of very different difficulty, one always better by 0.1: no draw doubts it."""
    hard = np.random.default_rng(2).normal(0, 10, 50)
    means = resampled_means(np.stack([hard, hard + 0.1]), Resampling())
    assert np.allclose(means[1] - means[0], 0.1)
    assert means[0].std() > 1.0


def test_the_seed_and_the_stream_decide_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(3, 40))
    once = resampled_means(values, Resampling(draws=64))
    assert np.array_equal(once, resampled_means(values, Resampling(draws=64)))
    assert not np.array_equal(once, resampled_means(values, Resampling(draws=64, seed=1)))
    assert not np.array_equal(once, resampled_means(values, Resampling(draws=64), stream=1))
    monkeypatch.setattr(bootstrap, "MAX_WEIGHTS", 100)  # two draws at a time
    assert np.allclose(once, resampled_means(values, Resampling(draws=64)))


def test_what_has_no_number_is_not_counted() -> None:
    found = intervals(np.array([[1.0, np.nan, 3.0, np.nan], [np.nan] * 4, [2.0] * 4]), Resampling())
    assert found[0].value == 2.0 and found[0].n == 2 and found[0].low == 1.0 and found[0].high == 3.0
    assert found[1] == Estimate(value=None, low=None, high=None, n=0)
    assert found[2] == Estimate(value=2.0, low=2.0, high=2.0, n=4)


def test_one_sample_and_none_have_no_interval() -> None:
    assert intervals(np.array([[5.0]]), Resampling()) == [Estimate(value=5.0, low=None, high=None, n=1)]
    assert intervals(np.empty((2, 0)), Resampling()) == [Estimate(value=None, low=None, high=None, n=0)] * 2


def test_impossible_resampling_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        Resampling(confidence=1.0)


NUMBERS = st.one_of(st.none(), st.floats(-5, 5))


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_shared_keeps_what_all_who_take_part_have(rows: list[list[float | None]]) -> None:
    values = matrix(rows)
    found = shared(values)
    taking_part = [row for row in range(len(rows)) if np.isfinite(values[row]).any()]
    for column in range(values.shape[1]):
        whole = bool(taking_part) and all(rows[row][column] is not None for row in taking_part)
        for row in range(len(rows)):
            assert np.isfinite(found[row, column]) == (whole and row in taking_part)
            assert not whole or row not in taking_part or found[row, column] == rows[row][column]


def test_rows_of_a_cluster_are_resampled_together() -> None:
    """Ten copies of each of twenty numbers know no more than the twenty."""
    numbers = np.random.default_rng(0).normal(size=20)
    copies, prompts = np.repeat(numbers, 10), np.repeat(np.arange(20) * 7, 10)
    alone = resampled(np.mean, (numbers,), Resampling())
    together = resampled(np.mean, (copies,), Resampling(), prompts)
    naive = resampled(np.mean, (copies,), Resampling())
    assert (together.value, together.n) == (pytest.approx(alone.value), 20)
    assert together.low == pytest.approx(alone.low) and together.high == pytest.approx(alone.high)
    assert naive.low is not None and alone.low is not None and naive.low > alone.low + 0.1
    assert resampled(np.mean, (np.zeros(0),), Resampling()).value is None
