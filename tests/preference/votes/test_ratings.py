"""Bradley–Terry: closed cases, exact recovery, simulated arenas, and who cannot be rated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.preference.votes.ratings import MEAN, SCALE, Match, bradley_terry, ratings

QUICK = Resampling(draws=200)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 3, 0), (1, 1, 5), (40, 2, 11), (300, 1, 1)])
def test_of_two_the_difference_is_the_log_odds_of_their_points(wins: int, losses: int, ties: int) -> None:
    matches = [Match(first="a", second="b", wins=1)] * wins + [Match(first="b", second="a", wins=1)] * losses
    found = {
        one.name: one for one in ratings([*matches, *[Match(first="a", second="b", ties=1)] * ties], QUICK, prior=0)
    }
    expected = 400 * math.log10((wins + ties / 2) / (losses + ties / 2))
    assert found["a"].rating.value - found["b"].rating.value == pytest.approx(expected, abs=1e-9)  # type: ignore[operator]
    assert found["a"].rating.value + found["b"].rating.value == pytest.approx(2 * MEAN)  # type: ignore[operator]
    assert (found["a"].wins, found["a"].ties, found["a"].losses) == (wins, ties, losses)
    assert (found["b"].wins, found["b"].ties, found["b"].losses) == (losses, ties, wins)


def test_votes_that_fit_the_model_exactly_give_its_ratings_back() -> None:
    truth_M = np.array([1412.0, 1090.0, 983.0, 515.0])
    met_MM = np.array([[0, 30, 5, 1], [30, 0, 0, 7], [5, 0, 0, 90], [1, 7, 90, 0]])
    wins_MM = met_MM / (1 + 10 ** ((truth_M[None, :] - truth_M[:, None]) / 400))
    np.testing.assert_allclose(bradley_terry(wins_MM), truth_M - truth_M.mean() + MEAN, atol=1e-7)


def test_a_circle_rates_all_the_same() -> None:
    circle = [Match(first=a, second=b, wins=4) for a, b in (("a", "b"), ("b", "c"), ("c", "a"))]
    assert [one.rating.value for one in ratings(circle, QUICK)] == pytest.approx([MEAN] * 3)


def arena(rng: np.random.Generator, truth: dict[str, float], battles: int, tied: float = 0.2) -> list[Match]:
    names, found = [*truth], []
    for _ in range(battles):
        a, b = rng.choice(names, 2, replace=False)
        chance = 1 / (1 + math.exp((truth[b] - truth[a]) / SCALE))
        tie = rng.random() < tied * 4 * chance * (1 - chance)  # equals tie most
        won = rng.random() < chance
        found.append(
            Match(first=a, second=b, ties=int(tie), wins=int(won and not tie), losses=int(not won and not tie))
        )
    return found


def test_simulated_arenas_are_recovered_and_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = {"strong": 1150.0, "good": 1060.0, "fair": 960.0, "weak": 830.0}
    inside = total = 0
    for seed in range(24):
        found = ratings(arena(np.random.default_rng(seed), truth, 400, tied=0.0), Resampling(draws=100, seed=seed))
        for one in found:
            assert one.rating.value is not None and one.rating.low is not None and one.rating.high is not None
            assert abs(one.rating.value - truth[one.name]) < 110
            inside += one.rating.low <= truth[one.name] <= one.rating.high
            total += 1
    assert 0.88 < inside / total <= 1.0
    many = ratings(arena(np.random.default_rng(0), truth, 6000), QUICK)
    assert [one.name for one in many] == ["strong", "good", "fair", "weak"], "ties draw ratings together, in order"


def test_several_votes_on_one_battle_make_no_interval_narrower() -> None:
    rng = np.random.default_rng(3)
    once = [Match(first="a", second="b", wins=int(won), losses=int(not won)) for won in rng.random(60) < 0.7]
    thrice = [Match(first="a", second="b", wins=3 * one.wins, losses=3 * one.losses) for one in once]

    def width(matches: list[Match]) -> float:
        rating = ratings(matches, QUICK, prior=0)[0].rating
        assert rating.low is not None and rating.high is not None
        return rating.high - rating.low

    assert width(thrice) == pytest.approx(width(once))


def test_who_won_everything_has_a_rating_that_grows_with_every_win() -> None:
    few, many = (ratings([Match(first="a", second="b", wins=1)] * wins, QUICK)[0] for wins in (3, 300))
    assert few.name == many.name == "a"
    assert MEAN < few.rating.value < many.rating.value < 2 * MEAN  # type: ignore[operator]


def test_who_never_met_the_others_has_no_rating() -> None:
    apart = [Match(first="a", second="b", wins=2, losses=1), Match(first="b", second="c", wins=1)]
    found = ratings([*apart, Match(first="x", second="y", wins=5), Match(first="a", second="a", ties=1)], QUICK)
    assert [one.name for one in found] == ["a", "b", "c", "x", "y"]
    assert [one.rating.value is None for one in found] == [False, False, False, True, True]
    assert np.mean([one.rating.value for one in found[:3]]) == pytest.approx(MEAN)
    assert ratings([Match(first="a", second="a", ties=1)], QUICK) == [] and ratings([], QUICK) == []
