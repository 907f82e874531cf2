from __future__ import annotations

import unicodedata

import pytest
import regex

from polite_flamingo.filters.rules import repetition, rules, same_text
from polite_flamingo.filters.scripts import _SPACELESS
from polite_flamingo.filters.thresholds import Thresholds


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
        ("Answer: 红色的圆", "红色 的圆。", True),
        ("红色", "这是红色的。", False),
        ("मा", "मी", False),  # vowel signs are part of a word
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("这是红色的。", 4),  # five letters
        ("红色。", 2),
        ("มันเป็นสีแดง", 3),  # nine letters; vowel signs and tone marks are not counted
        ("我有 3 个 iPhone。", 4),  # three letters and two words
        ("赤いです。", 3),
    ],
)
def test_words_are_estimated_where_a_script_has_no_spaces(text: str, words: int) -> None:
    assert rules(original="x", rewritten=text)["words"] == words


def test_thresholds_mean_the_same_in_chinese_as_in_english() -> None:
    """“It is red” passes and “Red.” is too short; a loop is one, and an honest list is none."""
    limits = Thresholds()
    for short, sentence in (("Red.", "It is red."), ("红色。", "这是红色的。"), ("赤。", "赤いです。")):
        for text, kept in ((short, False), (sentence, True)):
            found = rules(original="x", rewritten=text)
            assert (found["words"] >= limits.min_words and found["characters"] >= limits.min_characters) is kept, text
    assert repetition("这是红色的。" * 20) > 0.9
    assert repetition("มันเป็นสีแดง" * 20) > 0.9
    assert repetition("左边有一个红色的圆。右边有一个蓝色的方块。上面有一颗绿色的星。") < 0.2


def test_the_letters_are_those_of_unicode_s_scripts_and_line_breaks() -> None:
    wanted = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Line_Break=Complex_Context}]")
    known = "".join(_SPACELESS.findall("".join(map(chr, range(0x40000)))))
    strange = [letter for letter in wanted.sub("", known) if unicodedata.category(letter) != "Cn"]
    assert "".join(strange) == "〆ーｰ"  # signs that Japanese shares with no other script
    assert all(_SPACELESS.match(letter) for letter in "中あアㄅกກကក𠀀")
