from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.filters.rouge_l import common_subsequence, rouge_l, tokens
from tests.support.reference import golden


def test_reproduces_the_reference_numbers() -> None:
    cases = golden("metrics_golden.json")["rouge"]
    assert len(cases) >= 7
    for case in cases:
        found = rouge_l(target=case["original"], prediction=case["output"])
        assert round(found.f1, 4) == case["rougeL_stem"], case
        assert round(found.precision, 4) == case["precision"], case
        assert round(found.recall, 4) == case["recall"], case


WORDS = st.sampled_from(
    ["The", "running", "runs", "red", "RED", "circle's", "it", "é", "3.5", "\n", "--", "women", "woman"]
)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=40), st.lists(WORDS, max_size=40))
def test_equals_the_package_on_any_text(a: list[str], b: list[str]) -> None:
    from rouge_score import rouge_scorer

    target, prediction = " ".join(a), " ".join(b)
    expected = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True).score(target, prediction)["rougeL"]
    found = rouge_l(target=target, prediction=prediction)
    assert (found.precision, found.recall, found.f1) == pytest.approx(
        (expected.precision, expected.recall, expected.fmeasure), abs=1e-12
    )


LATIN = st.characters(max_codepoint=0x024F) | st.characters(min_codepoint=0x1E00, max_codepoint=0x1EFF)
SIGNS = st.characters(min_codepoint=0x2000, max_codepoint=0x2BFF)


@settings(deadline=None)
@given(st.text(alphabet=LATIN | SIGNS, max_size=60))
def test_tokens_of_latin_script_equal_the_package_s(text: str) -> None:
    from nltk.stem.porter import PorterStemmer
    from rouge_score import tokenize

    assert tokens(text) == tokenize.tokenize(text, PorterStemmer())


def test_one_word_taken_away_shortens_the_common_subsequence_by_one() -> None:
    words = [random.Random(1).choice("abcdefgh") for _ in range(300)]
    assert common_subsequence(words, words) == 300
    assert common_subsequence(words, [*words[:150], "unseen", *words[151:]]) == 299


def test_an_annotation_of_a_hundred_thousand_characters_takes_no_table() -> None:
    rng = random.Random(0)
    long = " ".join(rng.choice(["red", "blue", "green", "one", "two"]) for _ in range(20_000))
    start = time.process_time()
    assert rouge_l(target=long, prediction=long).f1 == 1.0
    assert time.process_time() - start < 30  # the package needs 400 million cells here: many minutes, gigabytes


@pytest.mark.parametrize(
    ("target", "prediction", "f1"),
    [
        ("красный круг", "Это красный круг.", 0.8),  # 2 of 2 and 2 of 3 words
        ("红色", "这是红色的", 4 / 7),  # 2 of 2 and 2 of 5 letters
        ("iPhone 红色", "红色的 iPhones", 4 / 7),  # 红色 in order, the stemmed word in the other
        ("红色", "蓝绿", 0.0),
    ],
)
def test_words_of_other_scripts_count_too(target: str, prediction: str, f1: float) -> None:
    assert rouge_l(target=target, prediction=prediction).f1 == pytest.approx(f1)
