"""VQA layout: two files joined by question, the majority of ten annotators, and TextVQA's own single file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_dataset import SHARED, Raw
from record_strategies import JUNK, spoiled

from polite_flamingo.sample import BadSample
from polite_flamingo.sources import SourceError
from polite_flamingo.sources.vqa import majority


def question(number: int, text: Any = "What is it?", image_id: Any = 7) -> dict[str, Any]:
    return {"question_id": number, "image_id": image_id, "question": text}


def annotation(number: int, *answers: str, first: str = "") -> dict[str, Any]:
    given_answers = [{"answer": answer, "answer_id": n, "answer_confidence": "yes"} for n, answer in enumerate(answers)]
    return {"question_id": number, "image_id": 7, "answers": given_answers, "multiple_choice_answer": first}


def two_files(raw: Raw, questions: list[Any], annotations: list[Any], subtype: Any = "val2014") -> tuple[Path, Path]:
    return (
        raw.json("questions.json", {"data_subtype": subtype, "questions": questions}),
        raw.json("annotations.json", {"data_subtype": subtype, "annotations": annotations}),
    )


def test_the_most_frequent_answer_wins_and_the_first_of_equals(raw: Raw) -> None:
    assert majority([{"answer": "no"}, {"answer": "red"}, {"answer": " red "}]) == ("red", {"no": 1, "red": 2})
    assert majority(["b", "a", "a", "b"])[0] == "b"
    assert majority(["", "", "yes"])[0] == "yes"
    for answers, reason in (
        ([], "empty_response"),
        ([" "], "empty_response"),
        ("yes", "bad_field"),
        ([3], "bad_field"),
    ):
        with pytest.raises(BadSample) as caught:
            majority(answers)
        assert caught.value.reason == reason


def test_questions_and_annotations_are_joined_by_id_in_any_order(raw: Raw) -> None:
    data = raw.image("COCO_val2014_000000000007.jpg")
    files = two_files(
        raw,
        [question(1, "  What colour\n is it? "), question(2, "How many?")],
        [annotation(2, "two"), annotation(1, "red", "blue", "blue", first="red")],
    )
    for order in (files, files[::-1]):
        samples, quarantined = raw.read("vqa_v2", *order)
        assert quarantined == []
        assert [(s.key, s.instruction, s.response) for s in samples] == [
            ("vqa_v2/val/1", "<image>What colour is it?", "Answer: blue"),  # not multiple_choice_answer
            ("vqa_v2/val/2", "<image>How many?", "Answer: two"),
        ]
        assert samples[0].images[0].data == samples[1].images[0].data == data
        assert samples[0].meta["answers"] == {"red": 1, "blue": 2}


@pytest.mark.parametrize(
    ("name", "subtype", "split"),
    [
        ("COCO_val2014_000000000007.jpg", "val2014", "val"),
        ("val2014/COCO_val2014_000000000007.jpg", "val2014", "val"),
        ("COCO_train2014_000000000007.jpg", None, "train"),
        ("COCO_train2014_000000000007.jpg", None, ""),
        ("000000000007.png", "val2017", "val"),
    ],
)
def test_images_are_found_under_the_names_of_coco(raw: Raw, name: str, subtype: Any, split: str) -> None:
    raw.image(name)
    samples, _ = raw.read("vqa_v2", *two_files(raw, [question(1)], [annotation(1, "a")], subtype), split=split)
    assert len(samples) == 1


def test_textvqa_has_a_layout_of_its_own(raw: Raw) -> None:
    raw.image("train_images/0a1b.jpg")
    row = {"question": "what brand?", "question_id": 5, "image_id": "0a1b", "answers": ["nokia", "nokla", "nokia"]}
    samples, quarantined = raw.read(
        "textvqa", raw.json("TextVQA_0.5.1_val.json", {"data": [row, {**row, "answers": []}]})
    )
    assert [(s.key, s.response) for s in samples] == [("textvqa/val/5", "Answer: nokia")]
    assert [row.reason for row in quarantined] == ["duplicate_key"]


def test_each_bad_record_is_quarantined_once(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000007.jpg")
    questions = [
        question(1), question(2), question(3, text=""), question(4, text=4), {"question_id": 5},
        question(6, image_id=8), question(7, image_id="x/../../7"), "oops", question(8), {"question": "who am I?"},
        question(1),
    ]  # fmt: skip
    annotations = [annotation(number, "yes") for number in (1, 3, 4, 5, 6, 7)]
    annotations += [
        {"question_id": 8, "answers": "yes"},
        annotation(99, "lost"),
        annotation(1, "again"),
        {"answers": []},
    ]
    samples, quarantined = raw.read("vqa_v2", *two_files(raw, questions, annotations))
    assert [sample.key for sample in samples] == ["vqa_v2/val/1"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("annotations.json#annotations[7]", "missing_annotation"),
        ("annotations.json#annotations[8]", "duplicate_key"),
        ("annotations.json#annotations[9]", "bad_field"),
        ("questions.json#questions[1]", "missing_annotation"),
        ("questions.json#questions[2]", "bad_field"),
        ("questions.json#questions[3]", "bad_field"),
        ("questions.json#questions[4]", "bad_field"),
        ("questions.json#questions[5]", "missing_image"),
        ("questions.json#questions[6]", "unsafe_name"),
        ("questions.json#questions[7]", "bad_field"),
        ("questions.json#questions[8]", "bad_field"),
        ("questions.json#questions[9]", "bad_field"),
        ("questions.json#questions[10]", "duplicate_key"),
    ]


def test_annotations_alone_are_a_clear_error(raw: Raw) -> None:
    with pytest.raises(SourceError, match="pass the questions file too"):
        raw.read("vqa_v2", raw.json("a.json", {"annotations": []}))
    with pytest.raises(SourceError, match="neither 'questions', 'annotations' nor 'data'"):
        raw.read("vqa_v2", raw.json("a.json", {"images": []}))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    questions=spoiled([{"question_id": f"id-{n}", "image_id": 7, "question": f"Why {n}?"} for n in range(4)]),
    annotations=spoiled([{"question_id": f"id-{n}", "answers": [{"answer": f"for {n}"}]} for n in range(4)]),
    subtype=st.just("val2014") | JUNK,
)
def test_spoiled_records_cost_only_themselves(raw: Raw, questions: Any, annotations: Any, subtype: Any) -> None:
    raw.image("COCO_val2014_000000000007.jpg")
    samples, quarantined = raw.read("vqa_v2", *two_files(raw, questions[0], annotations[0], subtype))
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(places) == len(set(places))
    of_questions = {place for place in places if "#questions[" in place}
    assert of_questions == {f"questions.json#questions[{number}]" for number in range(4)}
    if subtype == "val2014":
        said = {sample.key: (sample.question, sample.response) for sample in samples}
        for number in {0, 1, 2, 3} - questions[1] - annotations[1]:
            assert said[f"vqa_v2/val/id-{number}"] == (f"Why {number}?", f"Answer: for {number}")


def test_real_textvqa(real: Any) -> None:
    files = [f"textvqa/val_{part}_vqa_format.head.json" for part in ("questions", "annotations")]
    samples, quarantined = real("textvqa", "textvqa/images", *files, split="val")
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("textvqa/val/35259", "<image>what team does the pitcher play for?", "Answer: mets"),
        ("textvqa/val/35260", "<image>what is the number written in the blue jersey?", "Answer: 80"),
    ]
    assert [row.reason for row in quarantined] == ["missing_image"] * 40


def test_real_textvqa_calls_the_first_answer_multiple_choice(real: Any) -> None:
    content = json.loads((SHARED / "samples/textvqa/val_annotations_vqa_format.head.json").read_text())
    record = content["annotations"][0]
    assert (record["multiple_choice_answer"], majority(record["answers"])[0]) == ("nous les gosses", "dakota")


def test_real_vqa_v2_files_that_do_not_belong_together(real: Any) -> None:
    files = [
        "vqa_v2/annotation_single.TRANSCRIBED.json",
        "vqa_v2/v2_OpenEnded_mscoco_val2014_questions.first25.TRANSCRIBED.json",
    ]
    samples, quarantined = real("vqa_v2", "coco_captions/images", *files, split="val")
    assert samples == [] and [row.reason for row in quarantined] == ["missing_annotation"] * 26
