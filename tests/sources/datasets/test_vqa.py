"""VQA layout: two files joined by question, the majority of ten annotators, and TextVQA's own single file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.vqa_samples import majority
from tests.support.raw_dataset import SHARED, Raw
from tests.support.record_strategies import JUNK, spoiled


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
    stemmed = [("surf", "surfing"), ("ski", "ski"), ("surf", "surf"), ("surf", "surfing"), ("ski", "ski")]
    assert majority([{"answer": stem, "raw_answer": raw} for stem, raw in stemmed]) == (
        "surfing",
        {"surf": 3, "ski": 2},
    )
    assert majority([{"answer": "ski", "raw_answer": raw} for raw in (None, " ")]) == ("ski", {"ski": 2})
    for answers, reason in (
        ([], "empty_response"),
        ([" "], "empty_response"),
        ("yes", "bad_field"),
        ([3], "bad_field"),
        ([{"answer": None}], "bad_field"),
        ([{"raw_answer": "yes"}], "bad_field"),
        ([{"answer": "yes", "raw_answer": 3}], "bad_field"),
        ([["yes"]], "bad_field"),
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


QUESTION_IDS = [f"id-{n}" for n in range(4)]
ORDER = st.lists(st.sampled_from(QUESTION_IDS), max_size=7)
"""Ids of questions or of annotations, in any order: some are missing, some repeated."""


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=ORDER, answered=ORDER, parts=st.integers(1, 3), files=st.randoms(use_true_random=False))
def test_any_order_missing_and_repeated_records(
    raw: Raw, asked: list[str], answered: list[str], parts: int, files: Any
) -> None:
    """Against a plain dictionary: the first question of an id is answered by the first annotation of that id."""
    raw.image("COCO_val2014_000000000007.jpg")
    questions = [{"question_id": name, "image_id": 7, "question": f"{n}?"} for n, name in enumerate(asked)]
    annotations = [{"question_id": name, "answers": [{"answer": f"{n}."}]} for n, name in enumerate(answered)]
    paths = [
        raw.json(f"q{n}.json", {"questions": questions[n::parts], "data_subtype": "val2014"}) for n in range(parts)
    ]
    paths += [raw.json(f"a{n}.json", {"annotations": annotations[n::parts]}) for n in range(parts)]
    files.shuffle(paths)
    samples, quarantined = raw.read("vqa_v2", *paths)

    def in_order(letter: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        parts_read = [int(path.stem[1:]) for path in paths if path.stem[0] == letter]
        return [record for part in parts_read for record in records[part::parts]]

    said: dict[str, str] = {}
    for record in in_order("a", annotations):
        said.setdefault(record["question_id"], record["answers"][0]["answer"])
    expected: dict[str, tuple[str, str]] = {}
    for record in in_order("q", questions):
        if record["question_id"] in said:
            expected.setdefault(
                f"vqa_v2/val/{record['question_id']}", (record["question"], said[record["question_id"]])
            )
    assert {s.key: (s.question, s.response.removeprefix("Answer: ")) for s in samples} == expected

    reasons = Counter((row.payload[0], row.reason) for row in quarantined)
    answerless, lost = set(asked) - set(answered), [name for name in answered if name not in asked]
    used = set(asked) & set(answered)
    assert reasons == +Counter(
        {
            ("q", "missing_annotation"): len(answerless),
            ("q", "duplicate_key"): len(asked) - len(set(asked)),
            ("a", "missing_annotation"): len(lost),
            ("a", "duplicate_key"): len(answered) - len(lost) - len(used),
        }
    )
    assert len({row.payload for row in quarantined}) == len(quarantined)


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

    pictures = ["003a8ae2ef43b901.jpg", "train_images/40c6b4dd3caa006f.jpg", "270ee71a340f50e8.jpg"]
    samples, quarantined = real("textvqa", "", *files, split="val", pictures=pictures)
    assert [(s.key, s.question, s.response) for s in samples] == [
        (
            "textvqa/val/34602",
            "what is the brand of this camera?",
            "Answer: dakota",
        ),  # "multiple choice": nous les gosses
        ("textvqa/val/34618", "what brand is the bottle with red label?", "Answer: red label"),
        ("textvqa/val/34620", "how many items can you get for $5?", "Answer: 3"),
        (
            "textvqa/val/34621",
            "how man price tags are on the bottom shelf?",
            "Answer: answering does not require reading text in the image",  # 5 of 10, and so is "4", which comes later
        ),
    ]
    assert samples[0].meta["answers"] == {"nous les gosses": 1, "dakota": 5, "clos culombu": 1, "dakota digital": 3}
    assert Counter(row.reason for row in quarantined) == {"missing_image": 38}


def test_real_vizwiz_has_this_layout_too(real: Any) -> None:
    """Not a source of PF-1M, and its `image_id` is a file name; but a second real pair of files in VQA-v2's layout."""
    files = [f"vizwiz_extra/val_{part}_vqa_format.head.json" for part in ("annotations", "questions")]
    pictures = [f"VizWiz_val_{n:08}.jpg.jpg" for n in range(20)]
    samples, quarantined = real("vqa_v2", "", *files, split="val", pictures=pictures)
    assert quarantined == []
    said = {s.key: (s.question, s.response) for s in samples}
    assert len(said) == 20
    assert said["vqa_v2/val/1"] == ("Can you tell me what this medicine is please?", "Answer: night time")
    assert said["vqa_v2/val/2"] == ("What is the title of this book?", "Answer: dog years")
    assert said["vqa_v2/val/5"] == ("What the screen says? Thank you.", "Answer: unanswerable")  # a tie: the first
    assert said["vqa_v2/val/9"][1] == "Answer: nothing"  # "multiple choice": store front


def test_real_okvqa(real: Any) -> None:
    files = [
        "okvqa/OpenEnded_mscoco_train2014_questions.first3.TRANSCRIBED.json",
        "okvqa/mscoco_train2014_annotations.first1.TRANSCRIBED.json",
    ]
    pictures = [f"train2014/COCO_train2014_{number:012}.jpg" for number in (51606, 81721)]
    samples, quarantined = real("okvqa", "", *files, pictures=pictures)
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("okvqa/train/516065", "<image>What is the hairstyle of the blond called?", "Answer: pony tail")
    ]
    assert [(row.key, row.reason) for row in quarantined] == [
        ("okvqa/train/817215", "missing_annotation"),
        ("okvqa/train/4802085", "missing_annotation"),
    ]


def test_real_vqa_v2_files_that_do_not_belong_together(real: Any) -> None:
    files = [
        "vqa_v2/annotation_single.TRANSCRIBED.json",
        "vqa_v2/v2_OpenEnded_mscoco_val2014_questions.first25.TRANSCRIBED.json",
    ]
    samples, quarantined = real("vqa_v2", "coco_captions/images", *files, split="val")
    assert samples == [] and [row.reason for row in quarantined] == ["missing_annotation"] * 26
    annotation = json.loads((SHARED / "samples" / files[0]).read_text())["annotations"][0]
    assert majority(annotation["answers"]) == ("red", {"red": 7, "red & white": 1, "black": 1, "red and white": 1})
