from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.multiple_choice import Choices, answer_choices, with_letters
from polite_flamingo.sample import Sample
from tests.support.rated_answers import rated

FEW = Resampling(draws=50)


class Likes:
    """A model that finds some words likely: -1 for each of them, -3 for any other."""

    def __init__(self, *words: str):
        self.words, self.asked = words, list[tuple[Sample, str]]()

    def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> list[tuple[float, int]]:
        self.asked += asked
        return [
            (sum(-1.0 if word in self.words else -3.0 for word in text.split()), len(text.split())) for _, text in asked
        ]


QUESTION = Choices(sample=rated("d/t/1", {}), choices=("red", "a large green square", "blue"), right=1)


def test_the_likeliest_choice_is_picked_by_its_sum_or_mean() -> None:
    model = Likes("a", "large", "green", "square")
    assert answer_choices([QUESTION], model, "mean", FEW).picks == [1]
    assert answer_choices([QUESTION], model, "sum", FEW).picks == [0], "sums prefer short choices, of equals the first"
    assert [text for _, text in model.asked[:3]] == list(QUESTION.choices)


def test_letters_stand_for_the_choices() -> None:
    model = Likes("B")
    found = answer_choices([QUESTION, QUESTION], model, "letter", FEW)
    assert found.picks == [1, 1] and found.accuracy.value == 1.0 and found.longest == 1.0
    assert found.chance == pytest.approx(1 / 3)
    assert [text for _, text in model.asked] == ["A", "B", "C"] * 2
    asked = with_letters(QUESTION).instruction
    assert asked == (
        "<image>How many shapes?\nA. red\nB. a large green square\nC. blue\nAnswer with the letter of the right choice."
    )
    assert model.asked[0][0].images == QUESTION.sample.images


def test_numbers_that_are_not_finite_are_no_pick() -> None:
    class Broken:
        def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> list[tuple[float, int]]:
            return [(math.nan, 1) for _ in asked]

    found = answer_choices([QUESTION], Broken(), "sum", FEW)
    assert found.picks == [None] and found.accuracy.value == 0.0


@pytest.mark.parametrize(("choices", "right"), [(("one",), 0), (("one", "two"), 2), (("x",) * 27, 0)])
def test_a_question_without_an_answer_is_refused(choices: tuple[str, ...], right: int) -> None:
    with pytest.raises(ValueError, match="choices"):
        Choices(sample=QUESTION.sample, choices=choices, right=right)
    with pytest.raises(ValueError, match="no question"):
        answer_choices([], Likes())
