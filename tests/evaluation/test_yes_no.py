from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.yes_no import NEITHER, NO, YES, said, truth_of, yes_no

FEW = Resampling(draws=50)


def test_pope_s_rule_goes_by_the_first_sentence() -> None:
    assert [said(text) for text in ("Yes, there is.", "There is a dog", "nothing", "None.")] == [YES] * 4
    assert [said(text) for text in ("No.", "There is not a dog.", "Well, no, sir", "No,")] == [NO] * 4
    assert said("Yes. But not a dog.") == YES and said("  \n") == NEITHER
    assert said("Nope.") == YES, "the rule knows three words"


def test_a_question_counts_if_its_annotation_begins_with_yes_or_no() -> None:
    assert [truth_of(text) for text in ("yes", "Yes, two.", " YES.")] == [YES] * 3
    assert [truth_of(text) for text in ("no", "No, it is red.", "no!")] == [NO] * 3
    assert [truth_of(text) for text in ("No one", "yesterday", "two", "", "Nothing", "yes it is")] == [None] * 6


def test_accuracy_f1_and_share_of_yes_by_hand() -> None:
    truth = np.array([YES, YES, NO, NO, np.nan])
    given_to = np.array([[YES, YES, YES, YES, YES], [YES, NO, NO, NEITHER, np.nan], [np.nan] * 4 + [YES]])
    found = yes_no(truth, given_to, np.full((3, 5), 3.0), ["always", "model", "absent"], FEW)
    assert list(found) == ["always", "model"]
    always, model = found["always"], found["model"]
    assert (always.accuracy.value, always.f1.value, always.yes_share.value) == (0.5, pytest.approx(2 / 3), 1.0)
    assert (model.accuracy.value, model.f1.value, model.yes_share.value) == (0.5, pytest.approx(2 / 3), 0.25)
    assert model.truth_share == 0.5 and model.words == 3.0 and model.accuracy.n == 4
    assert model.f1.low is not None and model.f1.low <= 2 / 3 <= (model.f1.high or 0)


def test_without_a_question_in_common_there_is_nothing() -> None:
    nan = np.nan
    assert yes_no(np.array([nan]), np.array([[YES]]), np.array([[1.0]]), ["a"], FEW) == {}
    assert yes_no(np.array([YES, NO]), np.array([[YES, nan], [nan, NO]]), np.ones((2, 2)), ["a", "b"], FEW) == {}
    [found] = yes_no(np.array([NO]), np.array([[NO]]), np.array([[1.0]]), ["a"], FEW).values()
    assert found.f1.value is None and found.accuracy.value == 1.0


@given(st.lists(st.tuples(st.sampled_from([YES, NO]), st.sampled_from([YES, NO, NEITHER])), min_size=1, max_size=20))
def test_f1_is_that_of_its_definition(rows: list[tuple[float, float]]) -> None:
    truth, given_to = np.array(rows).T
    [found] = yes_no(truth, given_to[None], np.ones((1, len(rows))), ["a"], FEW).values()
    tp = sum(one == other == YES for one, other in rows)
    fp = sum(one == NO and other == YES for one, other in rows)
    fn = sum(one == YES and other != YES for one, other in rows)
    wanted = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
    assert found.f1.value == (wanted if wanted is None else pytest.approx(wanted))
    assert found.accuracy.value == pytest.approx(sum(one == other for one, other in rows) / len(rows))


@given(st.text())
def test_every_answer_says_something(text: str) -> None:
    assert said(text) in (YES, NO, NEITHER) and truth_of(text) in (YES, NO, None)
