"""The record: it survives JSON and pickling, its keys are safe and distinct, and what is wrong with it has a name."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.prompts import chat_prompt, rewriting_prompt
from polite_flamingo.sample import (
    IMAGE_MARK,
    MAX_TEXT_CHARACTERS,
    TASKS,
    BadSample,
    Image,
    Sample,
    Turn,
    make_key,
)

GOOD = Sample(
    key=make_key("vqa_v2", "val", 42),
    dataset="vqa_v2",
    task="vqa",
    turns=(Turn(instruction="<image>What colour?", response="Answer: red"),),
    images=(Image(extension="jpg", data=b"\xff\xd8"),),
    meta={"image_id": 42},
)


def test_a_good_sample_passes_and_reads_as_its_parts() -> None:
    assert GOOD.validate() is GOOD
    assert (GOOD.key, GOOD.instruction, GOOD.response) == ("vqa_v2/val/42", "<image>What colour?", "Answer: red")
    assert GOOD.question == "What colour?"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "../x"}, "unsafe_name"),
        ({"key": ""}, "unsafe_name"),
        ({"key": "a/b.c"}, "unsafe_name"),
        ({"task": "poetry"}, "bad_field"),
        ({"turns": ()}, "bad_field"),
        ({"turns": (Turn(instruction="<image>", response="a", learned=False),)}, "excluded"),
        ({"turns": (Turn(instruction="<image>", response=" \n"),)}, "empty_response"),
        ({"turns": (Turn(instruction="<image>", response="x" * (MAX_TEXT_CHARACTERS + 1)),)}, "text_too_long"),
        ({"turns": (Turn(instruction="<image>", response="\ud83d"),)}, "bad_field"),
        ({"images": ()}, "missing_image"),
        ({"images": (*GOOD.images, *GOOD.images)}, "missing_image"),
        ({"images": (Image(extension="png", data=b""),)}, "empty_image"),
    ],
)
def test_what_is_wrong_has_a_reason(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadSample) as error:
        dataclasses.replace(GOOD, **change).validate()
    assert error.value.reason == reason
    assert "\n" not in error.value.detail


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    instruction=TEXTS, response=TEXTS, task=st.sampled_from(TASKS), rewritten=st.none() | TEXTS,
    meta=st.dictionaries(TEXTS, st.integers() | TEXTS | st.booleans()), data=st.lists(st.binary(), max_size=3),
)  # fmt: skip
def test_a_record_is_the_sample_without_its_bytes(instruction, response, task, rewritten, meta, data) -> None:
    images = tuple(Image(extension="png", data=d) for d in data)
    sample = dataclasses.replace(
        GOOD, turns=(Turn(instruction=instruction, response=response),), task=task, rewritten=rewritten, meta=meta,
        images=images, scores={"sts": 0.5}, provenance={"shard": "a.tar"},
    )  # fmt: skip
    record = json.loads(json.dumps(sample.to_record()))
    assert Sample.from_record(record, images) == sample


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ([], "JSON object"),
        ({"key": "a"}, "'dataset' is missing"),
        ({"key": 1, "dataset": "d", "task": "vqa", "turns": []}, "'key' must be str"),
        ({"key": "a", "dataset": "d", "task": "vqa", "turns": {}}, "'turns' must be list"),
        ({"key": "a", "dataset": "d", "task": "vqa", "turns": ["hi"]}, "'instruction' and 'response'"),
        (
            {"key": "a", "dataset": "d", "task": "vqa", "turns": [{"instruction": "", "response": "", "learned": 0}]},
            "'learned' of a turn must be true or false",
        ),
        ({"key": "a", "dataset": "d", "task": "vqa", "turns": [], "meta": 3}, "'meta' must be an object"),
        ({"key": "a", "dataset": "d", "task": "vqa", "turns": [], "rewritten": 3}, "'rewritten' must be a string"),
    ],
)
def test_a_malformed_record_names_its_first_fault(record: object, named: str) -> None:
    with pytest.raises(BadSample, match=named) as error:
        Sample.from_record(record, ())
    assert error.value.reason == "bad_field"


def test_a_turn_that_is_not_learned_says_so_and_no_other_does() -> None:
    mask = (*GOOD.turns, Turn(instruction="And this?", response="no", learned=False))
    sample = dataclasses.replace(GOOD, turns=mask).validate()
    record = json.loads(json.dumps(sample.to_record()))
    assert Sample.from_record(record, GOOD.images) == sample
    assert record["turns"] == [
        {"instruction": "<image>What colour?", "response": "Answer: red"},  # as before there were masks
        {"instruction": "And this?", "response": "no", "learned": False},
    ]


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=2, max_size=2, unique=True))
def test_distinct_ids_have_distinct_keys_that_are_safe(parts: list[tuple[str, str, str]]) -> None:
    keys = [make_key(*part) for part in parts]
    assert keys[0] != keys[1]
    for key, part in zip(keys, parts, strict=True):
        assert "." not in key and ".." not in key and key.count("/") == 2
        if all(part):
            dataclasses.replace(GOOD, key=key).validate()


def test_a_bad_sample_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadSample("corrupt_image", "x: cut short")))
    assert (error.reason, error.detail, str(error)) == ("corrupt_image", "x: cut short", "corrupt_image: x: cut short")


def test_prompts_are_the_released_checkpoints_to_the_letter() -> None:
    system = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions."
    )
    assert rewriting_prompt(f"{IMAGE_MARK}Why?", "Answer: red") == (
        f"{system}\n### Human: <image><|endofchunk|>Why?\n### Assistent: (Drafted Response): Answer: red\n"
        " (Revised Response): "
    )
    assert chat_prompt("Hi") == f"{system}\n### Human: Hi\n### Assistant: "
    assert chat_prompt("Hi", first=False) == "\n### Human: Hi\n### Assistant: "
