from __future__ import annotations

import pytest

from polite_flamingo.filters.rules import repetition, rules, same_text


def test_counts_words_and_characters_of_the_stripped_text() -> None:
    scores = rules(original="red", rewritten="  It is\nred. ")
    assert (scores["words"], scores["characters"]) == (3, 10)


@pytest.mark.parametrize(
    ("original", "rewritten", "same"),
    [
        ("Answer: red", "Red.", True),
        ("Answer: red", "answer - RED", True),
        ("a red  circle\non a table", "A red circle, on a table.", True),
        ("Answer: red", "The circle is red.", False),
        ("Answer: Это", "это", True),
        ("Answer: red", "", False),
    ],
)
def test_knows_the_same_words_in_other_clothes(original: str, rewritten: str, same: bool) -> None:
    assert same_text(original, rewritten) is same


def test_the_endless_answer_repeats_itself_and_prose_does_not() -> None:
    prose = (
        "The picture shows a large red circle on the left and a small blue square on the right. "
        "The circle is above the square, and behind both there is a green wall with white stripes."
    )
    assert repetition(prose) < 0.1
    assert repetition(prose + " It is red." * 40) > 0.5
    assert repetition("red " * 60) > 0.9
    assert repetition("Yes, it is.") == 0.0
    assert repetition("") == 0.0


def test_an_honest_list_of_like_things_is_no_loop() -> None:
    text = (
        "There is a red circle on the left. There is a blue square on the right. There is a green star in the middle."
    )
    assert repetition(text) < 0.5
