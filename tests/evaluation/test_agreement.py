"""Agreement of two raters, against examples worked out by hand and against other definitions of the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.evaluation.agreement import Agreement, Ratings, agreements, kappa, spearman
from polite_flamingo.evaluation.bootstrap import Resampling

MARKS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40)


def sides(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.asarray(pairs, dtype=float)
    return both[:, 0], both[:, 1]


def test_cohen_s_kappa_of_two_classes_by_hand() -> None:
    """20 both yes, 5 and 10 apart, 15 both no: 0.7 observed, 0.5 by chance."""
    left, right = sides([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15)
    assert kappa(left, right) == pytest.approx(0.4)


@given(MARKS)
def test_weighted_kappa_is_that_of_its_tables(pairs: list[tuple[int, int]]) -> None:
    left, right = sides(pairs)
    marks = np.arange(1, 6)
    weights = (marks[:, None] - marks[None, :]) ** 2
    seen = np.array([[np.mean((left == a) & (right == b)) for b in marks] for a in marks])
    chance = np.outer(seen.sum(axis=1), seen.sum(axis=0))
    if (weights * chance).sum() < 1e-9:
        assert math.isnan(kappa(left, right))
    else:
        assert kappa(left, right) == pytest.approx(1 - (weights * seen).sum() / (weights * chance).sum())


@given(MARKS)
def test_spearman_is_scipy_s(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    left, right = sides(pairs)
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic)
    else:
        assert math.isnan(spearman(left, right))


def test_a_judge_is_compared_with_nli_and_with_people() -> None:
    ratings = Ratings()
    for mark in (1, 2, 3, 4, 5) * 8:
        label = {"correctness": mark, "keep": mark > 2} if mark != 3 else {}
        ratings.add({"correctness": float(mark), "formatting": 5.0, "visual_dependency": 1.0}, mark - 2.5, label)
    assert (ratings.judged, ratings.labelled) == (40, 32)
    nli, people, keep = (
        agreements(ratings, 3, Resampling(draws=50))[0],
        *agreements(ratings, 3, Resampling(draws=50))[1:],
    )
    assert (nli.other, people.other, keep.other) == ("NLI", "people", "people: keep")
    for one, n in ((nli, 40), (people, 32), (keep, 32)):
        assert one.kappa.value == pytest.approx(1.0) and one.kappa.n == n and one.spearman.low is not None
        assert Agreement.from_json(one.to_json()) == one
    assert nli.row()[0] == "correctness and NLI" and "n = 40" in nli.row()[1]


def test_one_who_always_says_the_same_agrees_with_nobody() -> None:
    ratings = Ratings()
    for n in range(6):
        ratings.add({"correctness": 4.0}, float(n), {})
    [one] = agreements(ratings, 3, Resampling(draws=20))
    assert one.spearman.value is None and one.row()[1].startswith("Spearman -, ")
