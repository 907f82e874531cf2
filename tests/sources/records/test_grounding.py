"""Objects and boxes in texts: put into words, or quarantined if they do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from polite_flamingo.sample import Quarantined
from tests.support.one_record import chat, read_one, turns_of
from tests.support.raw_dataset import Raw


@pytest.mark.parametrize(
    ("asked", "said", "objects", "expected"),
    [
        ("Find <ref-object>.", "<bbox>", {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]},
         ("Find dog.", "[0.031, 0.083, 0.094, 0.167]")),
        ("What?", "<ref-object><bbox> and <ref-object> <bbox><bbox>.",
         {"ref": ["a dog", "cats"], "bbox": [[0, 0, 16, 12], [16, 12, 40, 24], [0, 0, 32, 24]]},
         ("What?", "a dog: [0.000, 0.000, 0.500, 0.500] and cats: [0.500, 0.500, 1.000, 1.000], "
                   "[0.000, 0.000, 1.000, 1.000].")),
        ("Open it", "click('<bbox>')", {"ref": [], "bbox": [[16, 12]]}, ("Open it", "click('[0.500, 0.500]')")),
        ("Find <bbox>", "it", {"bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"},
         ("Find [0.100, 0.200, 0.300, 0.400]", "it")),
        ("Find <bbox>", "it", {"bbox": [[100, 200, 300, 400]], "bbox_type": "norm1000"},
         ("Find [0.100, 0.200, 0.300, 0.400]", "it")),
        ("Who is <ref-object>?", "<bbox>", '[{"caption": "guy", "bbox": [16, 12, 32, 24], "image": 0}]',
         ("Who is guy?", "[0.500, 0.500, 1.000, 1.000]")),
        ("Find <ref>the dog</ref>", "<ref>the dog</ref><box>(100,200),(300,400)</box>", None,
         ("Find the dog", "the dog: [0.100, 0.200, 0.300, 0.400]")),
        ("Find", "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)"
         "<|box_end|>", None, ("Find", "dog: [0.001, 0.002, 0.003, 0.004], [0.005, 0.006, 0.007, 0.008]")),
        ("Find", "<ref>dog</ref><box>[[10, 20, 30, 40], [1,2,3,4]]</box>", None,
         ("Find", "dog: [0.010, 0.020, 0.030, 0.040], [0.001, 0.002, 0.003, 0.004]")),
    ],
)  # fmt: skip
def test_objects_and_boxes_become_words(pictures: Raw, asked: str, said: str, objects: Any, expected: Any) -> None:
    row, _ = read_one(pictures, chat(f"<image>{asked}", said, image="a.jpg", objects=objects))
    assert turns_of(row) == [(f"<image>{expected[0]}", expected[1])]


def test_boxes_are_of_the_picture_that_they_name(pictures: Raw) -> None:
    objects = {"bbox": [[32, 24, 64, 48], [16, 12, 32, 24]], "image_id": [1, 0]}
    row, _ = read_one(
        pictures, chat("<image_2> and <image_1>", "<bbox>, <bbox>", images=["a.jpg", "b.jpg"], objects=objects)
    )
    assert turns_of(row)[0][1] == "[0.500, 0.500, 1.000, 1.000], [0.500, 0.500, 1.000, 1.000]"


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}, "1 in 'ref'"),
        ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "1 <bbox> in the texts, 2 in 'bbox'"),
        ({"bbox": [[40, 2, 50, 4]]}, "outside of its picture"),
        ({"bbox": [[3, 4, 1, 2]]}, "has no area"),
        ({"bbox": [[1, 2, 3]]}, "must be [x1, y1, x2, y2]"),
        ({"bbox": [["a", 2, 3, 4]]}, "must be a number"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [1]}, "in picture 1, the record has 1"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [True]}, "numbers of pictures"),
        ({"bbox": [[1, 2, 3, 4]], "bbox_type": "yolo"}, "'yolo'"),
        ("{", "not JSON"),
        ([3], "must be an object"),
    ],
)
def test_objects_that_do_not_fit_are_quarantined(pictures: Raw, objects: Any, says: str) -> None:
    row, _ = read_one(pictures, chat("<image>Find it.", "<bbox>", image="a.jpg", objects=objects))
    assert isinstance(row, Quarantined) and says in row.detail, row
