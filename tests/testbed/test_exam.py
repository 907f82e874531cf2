"""The exam's checks accept right answers, polite or terse, and refuse wrong ones and whatever adds something false."""

from __future__ import annotations

import random

import pytest

from polite_flamingo.testbed.shapes.captions import describe, hallucinated, terse_captions
from polite_flamingo.testbed.shapes.exam import PARTS, Part, exam, mentioned, sentences
from polite_flamingo.testbed.shapes.questions import KINDS, ask, follow_up
from polite_flamingo.testbed.shapes.scene import any_scene, random_scene


@pytest.mark.parametrize("part", PARTS)
def test_the_same_seed_gives_the_same_exam_and_another_one_another(part: Part) -> None:
    first, again, other = exam(part, 20, 1), exam(part, 20, 1), exam(part, 20, 2)
    assert [item.sample for item in first] == [item.sample for item in again]
    assert [item.sample.instruction for item in first] != [item.sample.instruction for item in other]


@pytest.mark.parametrize("part", [part for part in PARTS if part != "described"])
def test_the_annotation_is_right_and_that_of_most_other_items_is_not(part: Part) -> None:
    items = exam(part, 60)
    assert all(item.right(item.sample.response) for item in items)
    others = [item.right(items[at - 7].sample.response) for at, item in enumerate(items)]
    assert sum(others) < 0.5 * len(items)


def test_polite_answers_in_either_wording_are_right_and_statements_of_wrong_answers_are_not() -> None:
    rng = random.Random(3)
    for _ in range(300):
        scene = any_scene(rng)
        question = ask(rng, scene)
        assert question.answered_by(question.polite(0), scene) and question.answered_by(question.polite(1), scene)
        for other in question.others:
            if question.kind == "count" and int(other) > 5:
                continue
            assert not question.answered_by(question.statement(other, rng.randrange(2)), scene)


def test_an_answer_that_adds_something_false_is_wrong_and_one_that_adds_something_true_is_right() -> None:
    rng = random.Random(4)
    scene = random_scene(rng, 2)
    question = ask(rng, scene, ("where",))
    thing, other = scene.things
    assert question.answered_by(f"{question.polite()} There is a {other.name}. There is a {thing.name}.", scene)
    absent = next(c for c in ("red", "green", "blue") if scene.find(c, "heart") is None)
    assert not question.answered_by(f"{question.polite()} There is a {absent} heart.", scene)
    assert not question.answered_by("It is somewhere.", scene)


def test_why_needs_a_reason() -> None:
    rng = random.Random(5)
    scene = random_scene(rng, 3)
    question = ask(rng, scene, ("shape_at",))
    assert question.answered_by(question.polite(reasoned=True), scene, reasoned=True)
    assert not question.answered_by(question.polite(), scene, reasoned=True)
    assert question.answered_by(f"Answer: {question.answer}\nRationale: {question.reason}", scene, reasoned=True)
    assert not question.answered_by(f"Answer: {question.answer}", scene, reasoned=True)


def test_what_refers_back_has_one_answer_which_is_true_and_depends_on_the_question_before() -> None:
    rng = random.Random(6)
    answers: dict[str, set[str]] = {}
    for _ in range(400):
        scene = any_scene(rng)
        first = ask(rng, scene)
        second = follow_up(rng, scene, first)
        if second is None:
            assert first.about is None or first.kind in ("where", "size", "colour", "shape_at")
            continue
        assert second.answered_by(second.polite(), scene) and second.text != first.text
        answers.setdefault(second.text, set()).add(second.answer)
    assert len(answers["And the one beside it?"]) > 2 and len(answers["Where is it?"]) > 3


def test_follow_ups_ask_no_kind_that_is_left_out() -> None:
    rng = random.Random(7)
    kinds = tuple(kind for kind in KINDS if kind != "size")
    for _ in range(300):
        scene = any_scene(rng)
        second = follow_up(rng, scene, ask(rng, scene, kinds), kinds)
        assert second is None or second.kind != "size"


def test_second_turns_carry_the_first_question_the_picture_and_the_given_answer() -> None:
    item = exam("second", 1)[0]
    sample = item.after("It is red.")
    sample.validate()
    assert sample.turns[0].response == "It is red." and len(sample.turns) == 2
    assert sample.images == item.sample.images and item.next is not None
    assert sample.turns[1].instruction == item.next.sample.instruction


def test_descriptions_are_checked_sentence_by_sentence_and_thing_by_thing() -> None:
    rng = random.Random(8)
    for _ in range(50):
        scene = random_scene(rng, 3)
        text = describe(scene, terse_captions(rng, scene))
        assert all(sentences(text, scene)) and all(mentioned(text, scene))
        assert not all(sentences(hallucinated(rng, scene, text), scene))
        assert not any(mentioned("The image shows three shapes.", scene))
    assert sentences("The image shows a dog. Nonsense.", scene) == [False, False]
