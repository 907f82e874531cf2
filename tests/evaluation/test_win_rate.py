from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.win_rate import win_rates

FEW = Resampling(draws=50)


def test_shares_by_hand() -> None:
    """a against b: greater twice, less once, equal once; c has answered only the last two."""
    nan = np.nan
    rewards = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 3.5, 4.0], [nan, nan, 9.0, 9.0]])
    found = win_rates(rewards, ["a", "b", "c"], FEW)
    assert found.rates["a"]["b"].value == (2 + 0.5) / 4 and found.rates["a"]["b"].n == 4
    assert found.rates["b"]["a"].value == 1.5 / 4
    assert found.ties["a"]["b"] == found.ties["b"]["a"] == 0.25
    assert found.rates["c"]["a"].value == 1.0 and found.rates["c"]["a"].n == 2
    assert list(found.rates["c"]) == ["a", "b"] and "a" not in found.rates["a"]


def test_those_without_a_common_sample_are_not_compared() -> None:
    found = win_rates(np.array([[1.0, np.nan], [np.nan, 1.0]]), ["a", "b"], FEW)
    assert found.rates["a"]["b"].value is None and found.rates["b"]["a"].n == 0 and found.ties["a"]["b"] is None


REWARD = st.one_of(st.just(float("nan")), st.integers(-2, 2).map(float))


@given(
    st.tuples(st.integers(2, 4), st.integers(1, 12)).flatmap(
        lambda shape: st.lists(
            st.lists(REWARD, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    )
)
def test_what_one_wins_the_other_loses(rows: list[list[float]]) -> None:
    names = [f"m{number}" for number in range(len(rows))]
    found = win_rates(np.array(rows), names, FEW).rates
    for a in names:
        for b in names:
            if a == b:
                continue
            there, back = found[a][b], found[b][a]
            assert there.n == back.n
            assert (there.value is None) == (back.value is None) == (there.n == 0)
            if there.value is not None and back.value is not None:
                assert there.value + back.value == pytest.approx(1.0)
            if there.low is not None and there.high is not None and back.low is not None and back.high is not None:
                assert there.low + back.high == pytest.approx(1.0) == there.high + back.low
                assert 0 <= there.low <= there.high <= 1


def test_an_interval_holds_the_true_rate() -> None:
    """100 evaluations in which the first model truly wins 70 % of the samples."""
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(100):
        wins = rng.random(150) < 0.7
        rate = win_rates(np.stack([wins * 1.0, 1.0 - wins]), ["a", "b"], Resampling(draws=300)).rates["a"]["b"]
        held += rate.low <= 0.7 <= rate.high  # type: ignore[operator]
    assert 88 <= held <= 100
