from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.choice_records import ChoiceRecords
from polite_flamingo.evaluation.choices import Choices, Options, choices_of, with_letters
from polite_flamingo.evaluation.multiple_choice import Scored, choice_results, pick, score_choices
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.records.instructions import listed_options, multiple_choice
from polite_flamingo.sources.records.responses import answer_in, answer_response
from tests.support.rated_answers import rated

FEW = Resampling(draws=50)


class Likes:
    """A model that finds some words likely: -1 for each of them, -3 for any other."""

    def __init__(self, *words: str):
        self.words, self.asked = words, list[tuple[Sample, str]]()

    def log_probs(self, asked: Sequence[tuple[Sample, str]]) -> list[tuple[float, int] | BadSample]:
        self.asked += asked
        return [
            (sum(-1.0 if word in self.words else -3.0 for word in text.split()), len(text.split())) for _, text in asked
        ]


OPTIONS = Options(texts=("red", "a large green square", "blue"), right=1)
QUESTION = Choices(sample=rated("d/t/1", {}), options=OPTIONS)


def asking(instruction: str, response: str, **meta: object) -> Sample:
    sample = rated("d/t/2", {}, pictures=0)
    return replace(sample, turns=(replace(sample.turns[0], instruction=instruction, response=response),), meta=meta)


def test_the_likeliest_choice_is_picked_by_its_sum_or_mean() -> None:
    model = Likes("a", "large", "green", "square")
    [scores] = score_choices([QUESTION], model)
    assert not isinstance(scores, BadSample)
    assert pick(scores, "mean") == 1
    assert pick(scores, "sum") == 0, "sums prefer short choices, of equals the first"
    assert [text for _, text in model.asked] == list(OPTIONS.texts)


def test_letters_stand_for_the_choices() -> None:
    model = Likes("B")
    scored = score_choices([QUESTION, QUESTION], model, "letter")
    found = choice_results([OPTIONS] * 2, {"m": scored}, "letter", FEW)["m"]
    assert found.accuracy.value == 1.0 and found.longest == found.longest_right == 1.0
    assert found.chance == pytest.approx(1 / 3)
    assert [text for _, text in model.asked] == ["A", "B", "C"] * 2
    asked = with_letters(QUESTION).instruction
    assert asked == (
        "<image>How many shapes?\nA. red\nB. a large green square\nC. blue\nAnswer with the letter of the right choice."
    )
    assert model.asked[0][0].images == QUESTION.sample.images


def test_a_question_that_lists_its_choices_does_not_list_them_twice() -> None:
    sample = asking(multiple_choice("What is it?", ["red", "blue"]), answer_response("blue", "it looks so"))
    question = choices_of(sample)
    assert question is not None and question.listed and question.options == Options(texts=("red", "blue"), right=1)
    model = Likes("(B)")
    [scores] = score_choices([question], model, "letter")
    assert not isinstance(scores, BadSample) and pick(scores, "letter") == 1
    assert model.asked[0] == (with_letters(question), "(A)")
    assert with_letters(question).instruction == f"{sample.instruction}\nAnswer with the letter of the right choice."


def test_choices_are_found_in_the_meta_or_in_the_question() -> None:
    found = choices_of(asking("What is it?", "Answer: b", choices=["a", "b ", "c"]))
    assert found is not None and found.options == Options(texts=("a", "b ", "c"), right=1) and not found.listed
    pictures = choices_of(asking(multiple_choice("Which one?", ["<image>", "<image>"]), "Answer: (B)"))
    assert pictures is not None and pictures.options == Options(texts=("(A)", "(B)"), right=1)
    assert choices_of(asking("What is it?", "red")) is None
    assert choices_of(asking("What is it?", "red", choices=["red", "blue"]), "options") is None


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"choices": "a, b"}, "must be a list of texts"),
        ({"choices": ["a", 2]}, "must be a list of texts"),
        ({"choices": []}, "0 choices; from 2 to 26"),
        ({"choices": ["red"]}, "1 choices; from 2 to 26"),
        ({"choices": [f"x{n}" for n in range(27)]}, "27 choices"),
        ({"choices": ["blue", "green"]}, "the annotation 'red' is none of its 2 choices"),
    ],
)
def test_choices_that_are_no_question_have_a_reason(meta: dict[str, object], told: str) -> None:
    with pytest.raises(BadSample, match=told) as bad:
        choices_of(asking("What is it?", "Answer: red", **meta))
    assert bad.value.reason == "bad_field" and "\n" not in str(bad.value)


@pytest.mark.parametrize("options", [["red", "blue"], ["(A) or (B)", "neither"], [f"x{n}" for n in range(26)]])
@pytest.mark.parametrize("question", ["What is it?", "Of (A) and (B),\nwhich?", "(A) marks what?"])
def test_options_are_read_back_as_they_were_written(options: list[str], question: str) -> None:
    assert listed_options(multiple_choice(question, options, "A hint.")) == tuple(options)
    assert answer_in(answer_response("red", "why")) == answer_in(answer_response("red")) == answer_in(" red") == "red"


@pytest.mark.parametrize("text", ["What is it?", "(A) red\n(C) blue", "(A) red\nor so", ""])
def test_other_lines_are_no_options(text: str) -> None:
    assert listed_options(text) == ()


def test_numbers_that_are_not_finite_are_no_pick_and_wrong() -> None:
    nan: Scored = ((math.nan, 1), (-1.0, 1), (-2.0, 1))
    found = choice_results([OPTIONS], {"broken": [nan]}, "sum", FEW)["broken"]
    assert found.accuracy.value == 0.0 and found.unpicked == 1 and found.longest == 0.0


def test_all_models_are_measured_on_the_questions_that_each_could_be_asked() -> None:
    right, wrong = ((-9.0, 1), (-1.0, 1), (-9.0, 1)), ((-1.0, 1), (-9.0, 1), (-9.0, 1))
    bad = BadSample("text_too_long", "")
    scored: dict[str, list[Scored]] = {
        "one": [right, right, wrong], "other": [right, wrong, bad], "none": [bad, bad, bad]
    }  # fmt: skip
    found = choice_results([OPTIONS] * 3, scored, "sum", FEW)
    assert list(found) == ["one", "other"]
    assert (found["one"].accuracy.value, found["one"].accuracy.n) == (1.0, 2)
    assert (found["other"].accuracy.value, found["other"].accuracy.n) == (0.5, 2)
    assert found["one"].missing == {} and found["other"].missing == {"text_too_long": 1}
    assert found["other"].longest == 0.5 and found["other"].longest_right == 1.0


def test_a_shards_numbers_come_back_from_their_file() -> None:
    bad = BadSample("corrupt_image", "d/2: image 0")
    records = ChoiceRecords(
        identity="x", options={"d/1": OPTIONS, "d/2": OPTIONS}, scored={"d/1": ((-1.5, 3), (math.inf, 2)), "d/2": bad},
        refused={"d/3": bad},
    )  # fmt: skip
    found = ChoiceRecords.from_json(records.to_json())
    assert found.options == records.options and found.identity == "x"
    [first, second] = found.scored["d/1"]
    assert first == (-1.5, 3) and math.isnan(second[0])
    assert str(found.scored["d/2"]) == str(bad) == str(found.refused["d/3"])


@pytest.mark.parametrize(("choices", "right"), [(("one",), 0), (("one", "two"), 2), (("x",) * 27, 0)])
def test_options_without_a_right_one_are_refused(choices: tuple[str, ...], right: int) -> None:
    with pytest.raises(ValueError, match="choices"):
        Options(texts=choices, right=right)
