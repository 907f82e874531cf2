"""CLEVR, GQA and A-OKVQA: question and answer in one record."""

from __future__ import annotations

from typing import Any

from raw_dataset import Raw


def clevr(number: Any, answer: Any = "yes", **more: Any) -> dict[str, Any]:
    record = {"question_index": number, "question": "Is it red?", "image_filename": "c_1.png", **more}
    return record if answer is None else {**record, "answer": answer}


def test_clevr_reads_answers_and_counts_the_test_split_as_missing(raw: Raw) -> None:
    data = raw.image("images/val/c_1.png")
    records = [clevr(0), clevr(1, None), clevr(2, "0"), clevr(3, 3), clevr(4, ""), clevr(5, question=" "), clevr(None)]
    samples, quarantined = raw.read("clevr", raw.json("q.json", {"info": {}, "questions": records}))
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("clevr/val/0", "<image>Is it red?", "Answer: yes"),
        ("clevr/val/2", "<image>Is it red?", "Answer: 0"),
    ]
    assert samples[0].images[0].data == data and samples[0].task == "vqa"
    assert [row.reason for row in quarantined] == [
        "missing_annotation", "bad_field", "empty_response", "bad_field", "bad_field",
    ]  # fmt: skip


def test_clevr_records_name_their_split(raw: Raw) -> None:
    raw.image("valB/c_1.png")
    file = raw.json("q.json", {"questions": [clevr(0, split="valB"), clevr(0, split="valA")]})
    samples, quarantined = raw.read("clevr", file, split="valB")
    assert ([s.key for s in samples], quarantined) == (["clevr/valB/0"], [])
    _, quarantined = raw.read("clevr", file, split="")
    assert [(row.key, row.reason) for row in quarantined] == [("clevr/valA/0", "missing_image")]


def test_gqa_keeps_the_full_answer_beside_the_short_one(raw: Raw) -> None:
    raw.image("images/123.jpg")
    good = {"imageId": "123", "question": "Is the sky dark?", "answer": "yes", "fullAnswer": "Yes, the sky is dark."}
    records = {
        "02930152": good, "1": {**good, "answer": None}, "2": {**good, "imageId": 9}, "3": [], "": good,
        "4": {**good, "imageId": "../123"}, "5": {**good, "fullAnswer": 5}, "6": {"imageId": "123", "answer": "x"},
    }  # fmt: skip
    samples, quarantined = raw.read("gqa", raw.json("q.json", records))
    assert [(s.key, s.response) for s in samples] == [("gqa/val/02930152", "Answer: yes")]
    assert samples[0].meta["full_answer"] == "Yes, the sky is dark."
    assert [row.reason for row in quarantined] == [
        "missing_annotation", "missing_image", "bad_field", "bad_field", "unsafe_name", "bad_field", "bad_field",
    ]  # fmt: skip


def aokvqa(question_id: str, **more: Any) -> dict[str, Any]:
    record = {
        "split": "train", "image_id": 299207, "question_id": question_id, "question": "What does he await?",
        "choices": ["train", "cab"], "correct_choice_idx": 1, "direct_answers": ["ride", "ride", "bus"],
        "rationales": ["", "He stands at  a street.", "He has bags."],
    }  # fmt: skip
    return {**record, **more}


def test_aokvqa_answers_with_the_correct_choice_and_its_first_rationale(raw: Raw) -> None:
    raw.image("train2017/000000299207.jpg")
    records = [aokvqa("a"), aokvqa("b", choices=None)]
    samples, quarantined = raw.read("aokvqa", raw.json("a.json", records), split="")
    assert quarantined == []
    assert [(s.key, s.response) for s in samples] == [
        ("aokvqa/train/a", "Answer: cab\nRationale: He stands at a street."),
        ("aokvqa/train/b", "Answer: ride\nRationale: He stands at a street."),
    ]
    assert samples[0].task == "vqa_rationale"
    assert samples[0].meta["rationales"] == ["He stands at a street.", "He has bags."]


def test_aokvqa_bad_records(raw: Raw) -> None:
    raw.image("000000299207.jpg")
    records: list[Any] = [
        aokvqa("a", correct_choice_idx=2), aokvqa("b", correct_choice_idx=-1), aokvqa("c", correct_choice_idx=True),
        aokvqa("d", choices="cab"), aokvqa("e", choices=["", ""]), aokvqa("f", rationales=[]),
        aokvqa("g", choices=None, direct_answers=None), aokvqa("h", image_id=1), aokvqa("i", rationales="he"), 5,
    ]  # fmt: skip
    samples, quarantined = raw.read("aokvqa", raw.json("a.json", records), split="train")
    assert samples == []
    assert [row.reason for row in quarantined] == [
        "bad_field", "bad_field", "bad_field", "bad_field", "empty_response", "missing_annotation",
        "missing_annotation", "missing_image", "bad_field", "bad_field",
    ]  # fmt: skip


def test_real_clevr(real: Any) -> None:
    samples, quarantined = real("clevr", "clevr/images", "clevr/readme_example.RECONSTRUCTED.json")
    assert quarantined == []
    assert [(s.key, s.response) for s in samples] == [
        ("clevr/example/0", "Answer: 2"),
        ("clevr/example/1", "Answer: 2"),
        ("clevr/example/2", "Answer: yes"),
        ("clevr/example/3", "Answer: no"),
        ("clevr/example/4", "Answer: yes"),
    ]
    assert samples[0].instruction == "<image>How many small spheres are there?"
    files = ("clevr/CLEVR_test_questions.two.TRANSCRIBED.json", "clevr/CLEVR_trainA_questions.first1.TRANSCRIBED.json")
    samples, quarantined = real("clevr", "clevr/images", *files)
    assert samples == []
    assert [(row.key, row.reason) for row in quarantined] == [
        ("clevr/test/0", "missing_annotation"),
        ("clevr/test/149985", "missing_annotation"),
        ("clevr/trainA/0", "missing_image"),
    ]


def test_real_gqa_and_aokvqa_have_no_images_here(real: Any) -> None:
    _, quarantined = real("gqa", "clevr/images", "gqa/train_balanced_questions.first2.TRANSCRIBED.json")
    assert [row.key for row in quarantined] == ["gqa/train/02930152", "gqa/train/07333408"]
    _, more = real("aokvqa", "clevr/images", "aokvqa/aokvqa_v1p0.two.TRANSCRIBED.json")
    assert [row.key for row in more] == ["aokvqa/train/22MexNkBPpdZGX6sxbxVBH"]
    assert {row.reason for row in quarantined + more} == {"missing_image"}
