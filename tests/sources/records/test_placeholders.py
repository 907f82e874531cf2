"""Placeholders of pictures in texts: shown in their places, or quarantined by name, or plain text."""

from __future__ import annotations

from typing import Any

import pytest

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.placeholder_table import PLACEHOLDERS
from polite_flamingo.sources.records.placeholders import find_placeholders
from tests.support.one_record import bytes_of, chat, read_one, turns_of
from tests.support.raw_dataset import Raw


@pytest.mark.parametrize(
    ("asked", "names", "shown", "order"),
    [
        ("<|vision_start|><|image_pad|><|image_pad|><|vision_end|>What?", ["a.jpg"], "<image>What?", "a"),
        ("<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?", ["a.jpg"], "<image>What?", "a"),
        ("<Img><ImageHere></Img> What?", ["a.jpg"], "<image>What?", "a"),
        ("(<image>./</image>)\nWhat?", ["a.jpg"], "<image>What?", "a"),
        ("<start_of_image>What?", ["a.jpg"], "<image>What?", "a"),
        ("<|image|>What?<|image|>", ["a.jpg", "b.jpg"], "<image>What?<image>", "ab"),
        ("See <image_2>, then <image_1>, then <image_2> again.", ["a.jpg", "b.jpg"],
         "See <image>, then <image>, then <image> again.", "bab"),
        ("<|image_1|>What?", ["a.jpg"], "<image>What?", "a"),
        ("<image_0> and <image_1>?", ["a.jpg", "b.jpg"], "<image>and <image>?", "ab"),
        ("<image_01> or <image_00>?", {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}, "<image>or <image>?", "ba"),
        ("Picture 1: <img>b.jpg</img>\nWhat?", [], "Picture 1: <image>\nWhat?", "b"),
        ("<img>b.jpg</img> or <image>?", ["a.jpg"], "<image>or <image>?", "ba"),
        ("Is ![x](b.jpg) or ![y](a.jpg) better?", ["a.jpg", "b.jpg"], "Is <image> or <image> better?", "ba"),
        ("[IMG]What?", ["a.jpg"], "<image>What?", "a"),
    ],
)  # fmt: skip
def test_places_of_pictures_by_other_names(pictures: Raw, asked: str, names: Any, shown: str, order: str) -> None:
    row, _ = read_one(pictures, chat(asked, "So.", image=names))
    assert turns_of(row) == [(shown, "So.")]
    assert row.meta["images"] == [f"{letter}.jpg" for letter in order]
    assert [image.data for image in row.images] == [bytes_of(pictures, letter) for letter in order]


@pytest.mark.parametrize(
    ("asked", "names", "reason"),
    [
        ("<image_1>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<image_3>", ["a.jpg"], "missing_image"),
        ("<image_1><image>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<|image|>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<|image_pad|>What?", [], "unsupported"),
        ("<image-x>What?", ["a.jpg"], "unsupported"),
        ("<image>What?", ["a.mp4"], "unsupported"),
        ("What is <region1>?", ["a.jpg"], "unsupported"),
        ("<grounding>What?", ["a.jpg"], "unsupported"),
        ("<bbox>", ["a.jpg"], "unsupported"),
        ("Where? <box>(1,2)(3,4),(5,6)</box>", ["a.jpg"], "unsupported"),
    ],
)
def test_places_that_do_not_fit_are_quarantined(pictures: Raw, asked: str, names: Any, reason: str) -> None:
    row, _ = read_one(pictures, chat(asked, "So.", images=names))
    assert isinstance(row, Quarantined) and row.reason == reason, row


def test_words_of_html_and_code_are_text(pictures: Raw) -> None:
    for asked in (
        "How do I use <video> in HTML?",
        "What does `<audio>` do?",
        "Fix <div><video></div>",
        "Is <picture> old?",
    ):
        row, _ = read_one(pictures, chat(asked, "Use <video controls> and <|image_pad|>."), "sharegpt")
        assert turns_of(row) == [(asked, "Use <video controls> and <|image_pad|>.")]
    row, _ = read_one(pictures, chat("<image>Write it in HTML.", "<picture><video></video></picture>", image="a.jpg"))
    assert isinstance(row, Sample)
    row, notes = read_one(pictures, chat("Why?", "<think>hm</think>So."), "sharegpt")
    assert turns_of(row) == [("Why?", "<think>hm</think>So.")] and "taught unchanged" in next(iter(notes))


def test_each_example_of_a_placeholder_is_found() -> None:
    for placeholder in PLACEHOLDERS:
        for example in placeholder.example.split(", "):
            example = example.replace("path.jpg", "a.jpg").replace("path", "a.jpg")
            assert [found.becomes for found, _, _ in find_placeholders(example)][:1] == [placeholder.becomes], example
