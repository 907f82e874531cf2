from __future__ import annotations

import numpy as np
import pytest

from polite_flamingo.evaluation.alignment_tax import alignment_tax
from polite_flamingo.evaluation.bootstrap import Resampling


def test_by_hand() -> None:
    """Definition 1: (3 - 1) on captions plus (0.75 - 1) on questions."""
    language = {"captioning": np.array([4.0, 2.0]), "vqa": np.array([1.0, 1.0, 0.0, 1.0])}
    model = {"captioning": np.array([2.0, 0.0]), "vqa": np.array([1.0, 1.0, 1.0, 1.0])}
    tax = alignment_tax(language, model, Resampling(draws=400))
    assert tax.tasks["captioning"].value == 2.0 and tax.tasks["vqa"].value == -0.25
    assert tax.total.value == 1.75 and tax.total.n == 6
    assert (tax.tasks["captioning"].low, tax.tasks["captioning"].high) == (2.0, 2.0), "the loss is the same everywhere"
    assert (tax.total.low, tax.total.high) == (1.25, 2.0), "a draw of questions holds from none to three of the four"


def test_only_what_both_answered_counts() -> None:
    nan = np.nan
    language = {"captioning": np.array([4.0, nan, 2.0]), "vqa": np.array([nan, nan])}
    model = {"captioning": np.array([1.0, 1.0, nan]), "vqa": np.array([1.0, 0.0])}
    tax = alignment_tax(language, model, Resampling(draws=10))
    assert list(tax.tasks) == ["captioning"] and tax.tasks["captioning"].n == 1
    assert tax.total.value == 3.0 and tax.total.low is None, "of a single sample there is no interval"


def test_nothing_in_common_is_no_tax() -> None:
    tax = alignment_tax({"vqa": np.array([np.nan])}, {"vqa": np.array([1.0])}, Resampling(draws=10))
    assert tax.tasks == {} and tax.total.value is None and tax.total.n == 0


def test_tasks_are_resampled_apart_and_their_spread_adds_up() -> None:
    rng = np.random.default_rng(4)
    language = {name: np.zeros(400) for name in ("a", "b")}
    model = {name: rng.normal(0.0, 1.0, 400) for name in ("a", "b")}
    tax = alignment_tax(language, model, Resampling(draws=3000))

    def width(one) -> float:
        return one.high - one.low

    expected = np.hypot(width(tax.tasks["a"]), width(tax.tasks["b"]))
    assert width(tax.total) == pytest.approx(expected, rel=0.08)
