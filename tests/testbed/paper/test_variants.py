"""What some models of the study are shown instead."""

from __future__ import annotations

import dataclasses

import pytest

from polite_flamingo.images.decoding import decode
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.sources.records.responses import answer_response, captions_and_boxes
from polite_flamingo.testbed.paper.variants import COARSE, by_template, coarse, first_picture
from polite_flamingo.testbed.shapes.exam import exam


def test_a_coarse_picture_has_fewer_pixels_and_a_broken_one_stays_broken() -> None:
    sample = exam("changes", 1)[0].sample
    found = coarse(sample)
    assert [decode(image.data).size for image in found.images] == [(COARSE, COARSE)] * 2
    broken = dataclasses.replace(sample, images=(Image(extension="png", data=b"no picture"), sample.images[1]))
    assert coarse(broken).images[0] == broken.images[0] and coarse(broken).turns == sample.turns


def test_the_first_picture_comes_without_the_second_and_its_mark() -> None:
    sample = exam("changes", 1)[0].sample
    alone = first_picture(sample)
    alone.validate()
    assert alone.images == sample.images[:1] and alone.instruction == sample.instruction.replace("<image>", "", 1)


@pytest.mark.parametrize(
    ("task", "raw", "expected"),
    [
        ("vqa", answer_response("top left"), "The answer is top left."),
        ("vqa_rationale", answer_response("red", "it is painted red"), "The answer is red, because it is painted red."),
        ("captioning", captions_and_boxes(["a red star", "red star on grey"], [("star", (0, 0, 1, 1))]),
         "A red star. Red star on grey."),
        ("classification", "a photo of a star.\nit has five points", "A photo of a star. It has five points."),
    ],
)  # fmt: skip
def test_a_template_says_what_the_annotation_says_as_sentences(task: str, raw: str, expected: str) -> None:
    turn = Turn(instruction="What is it?", response=raw)
    assert by_template(Sample(key="a/b/c", dataset="a", task=task, turns=(turn,))) == expected


def test_what_a_template_makes_of_an_annotation_is_right_by_the_exam() -> None:
    for part in ("in", "out", "changes", "text"):
        for item in exam(part, 40):
            if part != "text":
                assert item.right(by_template(item.sample)), (item.sample.response, by_template(item.sample))
