"""A-OKVQA, VQA-E and ScienceQA: an answer and the reason for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.raw_dataset import Raw


def aokvqa(question_id: str, **more: Any) -> dict[str, Any]:
    record = {
        "split": "train", "image_id": 299207, "question_id": question_id, "question": "What does he await?",
        "choices": ["train", "cab"], "correct_choice_idx": 1, "direct_answers": ["ride", "ride", "bus"],
        "rationales": ["", "He stands at  a street.", "He has bags."],
    }  # fmt: skip
    return {**record, **more}


def test_aokvqa_answers_with_the_correct_choice_and_its_first_rationale(raw: Raw) -> None:
    raw.image("train2017/000000299207.jpg")
    records = [aokvqa("a"), aokvqa("b", choices=None), aokvqa("c", correct_choice_idx=None)]
    samples, quarantined = raw.read("aokvqa", raw.json("a.json", records), split="")
    assert quarantined == []
    assert [(s.key, s.response) for s in samples] == [
        ("aokvqa/train/a", "Answer: cab\nRationale: He stands at a street."),
        ("aokvqa/train/b", "Answer: ride\nRationale: He stands at a street."),
        ("aokvqa/train/c", "Answer: ride\nRationale: He stands at a street."),
    ]
    assert samples[0].task == "vqa_rationale"
    assert samples[0].meta["rationales"] == ["He stands at a street.", "He has bags."]


def test_aokvqa_bad_records(raw: Raw) -> None:
    raw.image("000000299207.jpg")
    test = dict.fromkeys(("correct_choice_idx", "direct_answers", "rationales"))
    records: list[tuple[Any, str]] = [
        (aokvqa("a", correct_choice_idx=2), "bad_field"), (aokvqa("b", correct_choice_idx=-1), "bad_field"),
        (aokvqa("c", correct_choice_idx=True), "bad_field"), (aokvqa("d", choices="cab"), "bad_field"),
        (aokvqa("e", choices=["", ""]), "empty_response"), (aokvqa("f", rationales=[]), "missing_annotation"),
        (aokvqa("g", choices=None, direct_answers=None), "missing_annotation"), (aokvqa("h", image_id=1),
        "missing_image"),
        (aokvqa("i", rationales="he"), "bad_field"), (5, "bad_field"), (aokvqa("j", split="test", **test),
        "missing_annotation"),
        (aokvqa("k", image_id="x/../../../299207"), "unsafe_name"), (aokvqa("l", choices=[]), "bad_field"),
        (aokvqa("a"), "duplicate_key"),
        (aokvqa("m", correct_choice_idx=float("nan")), "bad_field"), (aokvqa("n", split=3), "bad_field"),
    ]  # fmt: skip
    samples, quarantined = raw.read("aokvqa", raw.json("a.json", [record for record, _ in records]), split="")
    assert samples == []
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"a.json#questions[{number}]", reason) for number, (_, reason) in enumerate(records)
    ]


def vqa_e(question: Any = "Why?", *answers: str, **more: Any) -> dict[str, Any]:
    record = {
        "img_id": 7, "question": question, "question_type": "why", "answer_type": "other",
        "answers": list(answers or ("red", "blue", "blue")), "multiple_choice_answer": "blue",
        "explanation": ["The sky  is blue.", 0.8],
    }  # fmt: skip
    return {**record, **more}


@pytest.mark.parametrize("name", ["train2014/COCO_train2014_000000000007.jpg", "COCO_train2014_000000000007.jpg"])
def test_vqa_e_answers_with_the_majority_and_explains_it(raw: Raw, name: str) -> None:
    data = raw.image(name)
    other_name = {key: value for key, value in vqa_e("Who?").items() if key != "img_id"} | {"image_id": 7}
    records = [
        vqa_e("Is  it?"), other_name, vqa_e("A?", "no", "yes", multiple_choice_answer="yes"),
        vqa_e("B?", "no", "no", "yes", multiple_choice_answer="yes", explanation=["It is not."]),
        vqa_e("C?", "no", "yes", multiple_choice_answer="perhaps"), vqa_e("D?", multiple_choice_answer=None),
    ]  # fmt: skip
    samples, quarantined = raw.read("vqa_e", raw.json("VQA-E_train_set.json", records), split="train")
    assert quarantined == []
    assert [(s.instruction, s.response.splitlines()[0]) for s in samples] == [
        ("<image>Is it?", "Answer: blue"), ("<image>Who?", "Answer: blue"), ("<image>A?", "Answer: yes"),
        ("<image>B?", "Answer: no"), ("<image>C?", "Answer: no"), ("<image>D?", "Answer: blue"),
    ]  # fmt: skip
    assert samples[0].response == "Answer: blue\nRationale: The sky is blue."
    assert (samples[0].task, samples[0].images[0].data) == ("vqa_rationale", data)
    assert samples[0].meta == {
        "image_id": "7", "answers": {"red": 1, "blue": 2}, "source": "VQA-E_train_set.json#questions[0]",
    }  # fmt: skip
    assert samples[0].key == "vqa_e/train/7-ecde693842a9"


def test_vqa_e_bad_records(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000007.jpg")
    records: list[tuple[Any, str]] = [
        (vqa_e("a", explanation="It is."), "bad_field"), (vqa_e("b", explanation=[]), "bad_field"),
        (vqa_e("c", explanation=["", 1]), "missing_annotation"), (vqa_e("d", explanation=[None, 1]), "bad_field"),
        (vqa_e("e", explanation=["It is.", float("nan")]), ""), (vqa_e("f", answers=[]), "empty_response"),
        (vqa_e("g", answers="yes"), "bad_field"), (vqa_e("h", answers=None), "bad_field"), (vqa_e(" "), "bad_field"),
        (vqa_e("i", img_id="x/../../../../7"), "unsafe_name"), (vqa_e("j", img_id=8), "missing_image"),
        ("oops", "bad_field"),
        (vqa_e("k", img_id=None), "bad_field"), ({"img_id": 7, "question": "l"}, "bad_field"), (vqa_e("m"), ""),
        (vqa_e("m"), "duplicate_key"), (vqa_e("n", multiple_choice_answer=[]), "bad_field"),
    ]  # fmt: skip
    samples, quarantined = raw.read("vqa_e", raw.json("VQA-E_val_set.json", [record for record, _ in records]))
    assert [s.question for s in samples] == ["e", "m"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"VQA-E_val_set.json#questions[{number}]", reason) for number, (_, reason) in enumerate(records) if reason
    ]


def problem(**more: Any) -> dict[str, Any]:
    record = {
        "question": "What is the capital?", "choices": ["Albany", "Boston"], "answer": 1, "hint": "", "image": None,
        "lecture": "Capitals are cities.", "solution": "Boston is  the capital.", "split": "val", "grade": "grade3",
    }  # fmt: skip
    return {**record, **more}


def test_scienceqa_asks_with_hint_and_choices_and_explains_the_answer(raw: Raw) -> None:
    data = raw.image("val/12/image.png")
    raw.image("images/test/14/image.png")
    problems = {
        "11": problem(), "12": problem(image="image.png", hint="Look at\nthe map."),
        "13": problem(solution=""), "14": problem(image="image.png", split="test", solution=None),
    }  # fmt: skip
    samples, quarantined = raw.read("scienceqa", raw.json("problems.json", problems), split="")
    assert quarantined == []
    asked = "What is the capital?\n(A) Albany\n(B) Boston"
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("scienceqa/val/11", asked, "Answer: Boston\nRationale: Boston is the capital."),
        (
            "scienceqa/val/12",
            f"<image>Look at the map.\n{asked}",
            "Answer: Boston\nRationale: Boston is the capital.",
        ),
        ("scienceqa/val/13", asked, "Answer: Boston\nRationale: Capitals are cities."),
        ("scienceqa/test/14", f"<image>{asked}", "Answer: Boston\nRationale: Capitals are cities."),
    ]
    assert [len(s.images) for s in samples] == [0, 1, 0, 1] and samples[1].images[0].data == data
    assert samples[1].meta == {
        "image_id": "val/12", "rationale_from": "solution", "source": "problems.json#problems[1]",
    }  # fmt: skip
    assert samples[2].meta["rationale_from"] == "lecture" and samples[2].task == "vqa_rationale"
    samples, quarantined = raw.read("scienceqa", raw.root / "problems.json", split="", questions="with_image")
    assert [s.key for s in samples] == ["scienceqa/val/12", "scienceqa/test/14"] and quarantined == []


def test_scienceqa_takes_a_split_that_a_problem_does_not_name_from_the_lists(raw: Raw) -> None:
    problems = {"1": problem(split=""), "2": problem(split=""), "3": problem(), "4": problem(split="")}
    lists = {"train": ["1"], "val": [], "test": [2, "3"], "trainval": ["1", "4"], "minitest": ["3"]}
    files = raw.json("problems.json", problems), raw.json("pid_splits.json", lists)
    for order in (files, files[::-1]):
        samples, quarantined = raw.read("scienceqa", *order, split="")
        assert quarantined == []
        assert [s.key for s in samples] == [f"scienceqa/{s}" for s in ("train/1", "test/2", "val/3", "unlisted/4")]
    assert [s.key for s in raw.read("scienceqa", *files, split="test")[0]] == ["scienceqa/test/2"]


def test_scienceqa_bad_records(raw: Raw) -> None:
    raw.image("val/12/image.png")
    raw.text("images/val/20/image.png", "")
    problems: dict[str, tuple[Any, str]] = {
        "1": (problem(answer=2), "bad_field"), "2": (problem(answer=-1), "bad_field"),
        "3": (problem(answer=True), "bad_field"), "4": (problem(answer=None), "missing_annotation"),
        "5": (problem(answer="1"), "bad_field"), "6": (problem(choices="ab"), "bad_field"),
        "7": (problem(choices=["a", 3]), "bad_field"), "8": (problem(choices=["a"] * 27), "bad_field"),
        "9": (problem(choices=["a", " "]), "empty_response"), "10": (problem(solution="", lecture=""),
        "missing_annotation"),
        "11": (problem(solution=None, lecture=None), "missing_annotation"), "12": (problem(image="../12/image.png"),
        "unsafe_name"),
        "13": (problem(image="image.png"), "missing_image"), "14": (problem(image=3), "bad_field"),
        "15": (problem(hint=3), "bad_field"),
        "16": ([problem()], "bad_field"), "17": ("x", "bad_field"), "18": (problem(question=""), "bad_field"),
        "19": (problem(split=5), "bad_field"), "20": (problem(image="image.png"), "empty_image"), "": (problem(),
        "bad_field"),
        "21": (problem(answer=float("nan")), "bad_field"), "../12": (problem(image="image.png"), "unsafe_name"),
        "\ud800": (problem(split=""), "bad_field"),
    }  # fmt: skip
    file = raw.json("problems.json", {name: record for name, (record, _) in problems.items()})
    samples, quarantined = raw.read("scienceqa", file, split="")
    assert samples == []
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"problems.json#problems[{number}]", reason) for number, (_, reason) in enumerate(problems.values())
    ]


def test_real_aokvqa(real: Any) -> None:
    file = "aokvqa/aokvqa_v1p0.two.TRANSCRIBED.json"
    samples, quarantined = real("aokvqa", "", file, pictures=["train2017/000000299207.jpg"])
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        (
            "aokvqa/train/22MexNkBPpdZGX6sxbxVBH",
            "<image>What is the man by the bags awaiting?",
            "Answer: cab\nRationale: A train would not be on the street, he would not have luggage waiting for a "
            "delivery, and the skateboarder is there and not paying attention to him so a cab is the only possible "
            "answer.",
        )
    ]
    assert len(samples[0].meta["rationales"]) == 3


def test_real_scienceqa(real: Any) -> None:
    files = ["scienceqa/problems.head40_val_test.json", "scienceqa/pid_splits.cut.json"]
    samples, quarantined = real("scienceqa", "", *files, pictures=["val/45/image.png", "test/5/image.png"])
    said = {s.key: (s.instruction, s.response) for s in samples}
    assert said["scienceqa/val/45"] == (
        "<image>What is the capital of Massachusetts?\n(A) Plymouth\n(B) Albany\n(C) Wichita\n(D) Boston",
        "Answer: Boston\nRationale: Boston is the capital of Massachusetts.",
    )
    assert said["scienceqa/test/4"] == (
        "Which figure of speech is used in this text? Sing, O goddess, the anger of Achilles son of Peleus, that "
        "brought countless ills upon the Achaeans. —Homer, The Iliad\n(A) chiasmus\n(B) apostrophe",
        "Answer: apostrophe\nRationale: The text uses apostrophe, a direct address to an absent person or a nonhuman "
        "entity. O goddess is a direct address to a goddess, a nonhuman entity.",
    )
    asked, answer = said["scienceqa/test/5"]
    assert asked.startswith("<image>People can use the engineering-design process to develop solutions to problems.")
    assert asked.splitlines()[1:3] == [
        "Which of the following could Gordon's test show?",
        "(A) if the spacecraft was damaged when using a parachute with a 1 m vent going 200 km per hour",
    ]
    assert answer.startswith(
        "Answer: how steady a parachute with a 1 m vent was at 200 km per hour\nRationale: People can use the "
        "engineering-design process to develop solutions to problems. One step"  # its solution is empty
    )
    assert Counter(len(s.images) for s in samples) == {0: 19, 1: 2}
    assert Counter(s.meta["rationale_from"] for s in samples) == {"solution": 18, "lecture": 3}
    assert Counter(row.reason for row in quarantined) == {"missing_image": 19}
    assert len(real("scienceqa", "clevr/images", *files, split="val")[0]) == 11
