"""IconQA and AI2D: answers to choose from, one file per question or image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.instructions import multiple_choice
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import spoiled


def test_the_answers_to_choose_from_follow_the_question_a_line_each() -> None:
    assert multiple_choice("Which?", ["a cat", "a dog"]) == "Which?\n(A) a cat\n(B) a dog"
    assert multiple_choice("Which?", ["a cat"], "Look at the tail.") == "Look at the tail.\nWhich?\n(A) a cat"
    assert multiple_choice("Which?", [""] * 26).endswith("\n(Z) ")


def icon(kind: str, **more: Any) -> dict[str, Any]:
    record: dict[str, Any] = {"question": "How many  shapes?", "ques_type": kind, "grade": "grade1", "label": "S2"}
    if kind == "fill_in_blank":
        record["answer"] = "5"
    else:
        record |= {"choices": ["three", "four"], "answer": 1}
    return {**record, **more}


def icons(raw: Raw, folder: str, record: Any) -> Path:
    """Write the question and its picture; return the folder of all."""
    raw.json(f"images/{folder}/data.json", record)
    raw.image(f"{folder}/image.png")
    return raw.images


def test_iconqa_has_three_kinds_of_questions(raw: Raw) -> None:
    icons(raw, "val/choose_txt/10", icon("choose_txt"))
    icons(raw, "val/fill_in_blank/2", icon("fill_in_blank"))
    root = icons(raw, "test/choose_img/3", icon("choose_img", choices=["choice_0.png", "choice_1.png"]))
    pictures = [raw.image("test/choose_img/3/image.png")]
    pictures += [raw.image(f"test/choose_img/3/choice_{n}.png", colour=c) for n, c in enumerate(("red", "blue"))]
    samples, quarantined = raw.read("iconqa", root, split="")
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        (
            "iconqa/test/choose_img-3",
            "<image>How many shapes?\n(A) <image>\n(B) <image>",
            "Answer: (B)",
        ),
        ("iconqa/val/choose_txt-10", "<image>How many shapes?\n(A) three\n(B) four", "Answer: four"),
        ("iconqa/val/fill_in_blank-2", "<image>How many shapes?", "Answer: 5"),
    ]
    assert [image.data for image in samples[0].images] == pictures
    assert samples[1].meta == {"image_id": "10", "kind": "choose_txt", "source": "val/choose_txt/10/data.json"}
    assert [s.key for s in raw.read("iconqa", root, split="test")[0]] == ["iconqa/test/choose_img-3"]
    assert [s.key for s in raw.read("iconqa", root / "val/choose_txt", split="")[0]] == ["iconqa/val/choose_txt-10"]
    single = root / "val/choose_txt/10/data.json"
    assert [s.key for s in raw.read("iconqa", single, split="")[0]] == ["iconqa/val/choose_txt-10"]


@pytest.mark.parametrize("place", ["val/choose_txt/10", "choose_txt/10", "10"])
def test_iconqa_images_are_found_from_wherever_their_folder_is_given(raw: Raw, place: str) -> None:
    raw.image(f"{place}/image.png")
    raw.json("data/val/choose_txt/10/data.json", icon("choose_txt"))
    samples, _ = raw.read("iconqa", raw.root / "data", split="")
    assert [s.key for s in samples] == ["iconqa/val/choose_txt-10"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (icon("choose_txt", answer=2), "bad_field"),
        (icon("choose_txt", answer=-1), "bad_field"),
        (icon("choose_txt", answer="1"), "bad_field"),
        (icon("choose_txt", answer=float("nan")), "bad_field"),
        (icon("choose_txt", answer=None), "missing_annotation"),
        (icon("choose_txt", choices=None), "bad_field"),
        (icon("choose_txt", choices=[]), "bad_field"),
        (icon("choose_txt", choices=["a", ""]), "empty_response"),
        (icon("choose_txt", question=""), "bad_field"),
        (icon("choose_txt", question=5), "bad_field"),
        (icon("choose_img", choices=["choice_0.png", "choice_1.png"]), "missing_image"),
        (icon("choose_img", choices=["image.png", "../1/image.png"]), "unsafe_name"),
        (icon("fill_in_blank", answer=""), "empty_response"),
        (icon("fill_in_blank", answer=None), "missing_annotation"),
        (icon("fill_in_blank", answer=5), "bad_field"),
        (icon("essay"), "bad_field"),
        ({}, "bad_field"),
        ([], "bad_field"),
    ],
)
def test_a_bad_icon_question_costs_only_itself(raw: Raw, record: Any, reason: str) -> None:
    icons(raw, "val/choose_txt/1", icon("choose_txt"))
    samples, quarantined = raw.read("iconqa", icons(raw, "val/choose_txt/2", record), split="")
    assert [s.key for s in samples] == ["iconqa/val/choose_txt-1"]
    assert [(row.payload, row.reason) for row in quarantined] == [("val/choose_txt/2/data.json", reason)]


def test_files_that_are_not_json_and_links_out_of_the_folder(raw: Raw) -> None:
    root = icons(raw, "val/choose_txt/1", icon("choose_txt"))
    for number, content in enumerate((b"{", b"\xff\xfe", '{"question": "café"}'.encode("latin-1"), b"[" * 100_000)):
        icons(raw, f"val/choose_txt/2{number}", {})
        (root / f"val/choose_txt/2{number}/data.json").write_bytes(content)
    icons(raw, "val/choose_txt/3", {})
    (root / "val/choose_txt/3/data.json").unlink()
    (root / "val/choose_txt/3/data.json").symlink_to(raw.json("secret.json", icon("choose_txt")))
    samples, quarantined = raw.read("iconqa", root, split="")
    assert len(samples) == 1
    assert [(row.payload[15:17], row.reason) for row in quarantined] == [
        ("20", "bad_json"), ("21", "bad_field"), ("22", "bad_field"), ("23", "bad_json"), ("3/", "unsafe_name"),
    ]  # fmt: skip


def test_a_folder_without_questions_is_a_clear_error(raw: Raw) -> None:
    for given_path in (raw.root, raw.root / "nowhere"):
        with pytest.raises(SourceError, match="pass iconqa/SPLIT"):
            raw.read("iconqa", given_path)


def ai2d(*answers: Any, correct: Any = 0, abc: Any = False, number: Any = 0) -> dict[str, Any]:
    return {"abcLabel": abc, "answerTexts": list(answers), "correctAnswer": correct, "questionId": f"7.png-{number}"}


def test_ai2d_asks_on_letters_of_the_image_that_shows_them(raw: Raw) -> None:
    plain, letters = raw.image("images/7.png"), raw.image("abc_images/7.png", colour="red")
    questions = {
        "What eats  it?": ai2d("a fox", "{}", "an owl", "", correct=2, number=1),
        "What is A?": ai2d("ear", "nose", correct=0, abc=True, number=2),
    }
    raw.json("questions/7.png.json", {"imageName": "7.png", "questions": questions})
    samples, quarantined = raw.read("ai2d", raw.root / "questions", split="")
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("ai2d/train/7~2Epng-1", "<image>What eats it?\n(A) a fox\n(B) an owl", "Answer: an owl"),
        ("ai2d/train/7~2Epng-2", "<image>What is A?\n(A) ear\n(B) nose", "Answer: ear"),
    ]
    assert [s.images[0].data for s in samples] == [plain, letters]
    (raw.images / "abc_images/7.png").unlink()
    _, quarantined = raw.read("ai2d", raw.root / "questions", split="")
    assert [(row.payload, row.reason) for row in quarantined] == [("7.png.json#questions[1]", "missing_image")]


def test_ai2d_the_list_of_numbers_tells_the_test_split(raw: Raw) -> None:
    for name in ("7.png", "70.png"):
        raw.image(name)
        question = {"questionId": f"{name}-0", "answerTexts": ["a"], "correctAnswer": 0, "abcLabel": False}
        raw.json(f"questions/{name}.json", {"imageName": name, "questions": {"What?": question}})
    files = raw.root / "questions", raw.text("ai2d_test_ids.csv", "70\n12\n")
    assert [s.key for s in raw.read("ai2d", *files, split="")[0]] == ["ai2d/train/7~2Epng-0", "ai2d/test/70~2Epng-0"]
    assert [s.key for s in raw.read("ai2d", *files, split="test")[0]] == ["ai2d/test/70~2Epng-0"]
    assert len(raw.read("ai2d", files[0], split="test")[0]) == 2  # without the list, all of the given split


def test_ai2d_bad_questions_and_files(raw: Raw) -> None:
    raw.image("7.png")
    questions: list[tuple[Any, str]] = [
        (ai2d("a", correct=1), "bad_field"), (ai2d("a", "{}", correct=1, number=1), "empty_response"),
        (ai2d("a", correct=None, number=2), "missing_annotation"), (ai2d(3, number=3), "bad_field"),
        (ai2d(number=4), "bad_field"), ("x", "bad_field"), ({}, "bad_field"), (ai2d("a", correct=0.0, number=5),
        "bad_field"),
        (ai2d("a", number=6), ""), (ai2d("a", number=6), "duplicate_key"),
    ]  # fmt: skip
    content = {"imageName": "7.png", "questions": {f"{n}?": record for n, (record, _) in enumerate(questions)}}
    raw.json("questions/7.png.json", content)
    for name, other in {
        "a": [], "b": {"imageName": "7.png"}, "c": {"imageName": "7.png", "questions": []}, "d": {"questions": {}},
        "e": {"imageName": "7.png", "questions": {}},
        "f": {"imageName": "../7.png", "questions": {"What?": ai2d("a", number=7)}},
        "g": {"imageName": "8.png", "questions": {"What?": ai2d("a", number=8)}},
    }.items():  # fmt: skip
        raw.json(f"questions/{name}.json", other)
    raw.text("questions/h.json", '{"imageName": ')
    samples, quarantined = raw.read("ai2d", raw.root / "questions", split="")
    assert [s.meta["source"] for s in samples] == ["7.png.json#questions[8]"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        *((f"7.png.json#questions[{n}]", reason) for n, (_, reason) in enumerate(questions) if reason),
        ("a.json#questions[0]", "bad_field"), ("b.json#questions[0]", "bad_field"),
        ("c.json#questions[0]", "bad_field"),
        ("d.json#questions[0]", "bad_field"), ("e.json#questions[0]", "missing_annotation"),
        ("f.json#questions[0]", "unsafe_name"), ("g.json#questions[0]", "missing_image"),
        ("h.json#questions[0]", "bad_json"),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    icon_records=spoiled([icon("choose_txt"), icon("fill_in_blank"), icon("choose_img", choices=["image.png"] * 2)]),
    questions=spoiled([ai2d("a", "b", correct=1, number=n) for n in range(3)]),
)
def test_spoiled_questions_cost_only_themselves(raw: Raw, icon_records: Any, questions: Any) -> None:
    for number, record in enumerate(icon_records[0]):
        root = icons(raw, f"val/any/{number}", record)
    samples, quarantined = raw.read("iconqa", root, split="")
    places = {s.meta["source"] for s in samples} | {row.payload for row in quarantined}
    assert places == {f"val/any/{number}/data.json" for number in range(3)}
    assert len(samples) + len(quarantined) == 3
    assert {f"iconqa/val/any-{n}" for n in range(3) if n not in icon_records[1]} <= {s.key for s in samples}

    raw.image("7.png")
    content = {"imageName": "7.png", "questions": {f"{n}?": record for n, record in enumerate(questions[0])}}
    samples, quarantined = raw.read("ai2d", raw.json("7.json", json.loads(json.dumps(content))), split="")
    found = [s.meta["source"] for s in samples] + [row.payload for row in quarantined]
    assert sorted(found) == [f"7.json#questions[{n}]" for n in range(3)]
    assert {f"7.json#questions[{n}]" for n in range(3) if n not in questions[1]} <= {s.meta["source"] for s in samples}


def test_real_iconqa(real: Any) -> None:
    samples, quarantined = real("iconqa", "", "iconqa/iconqa/val", pictures=["val/choose_txt/SAMPLE/image.png"])
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        (
            "iconqa/val/choose_txt-SAMPLE",
            "<image>How likely is it that you will pick a black one?\n"
            "(A) certain\n(B) unlikely\n(C) impossible\n(D) probable",
            "Answer: impossible",
        )
    ]


def test_real_ai2d(real: Any) -> None:
    samples, quarantined = real("ai2d", "", "ai2d/questions", split="test", pictures=["abc_images/0.png"])
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        (
            "ai2d/test/0~2Epng-0",
            "<image>What is A in the diagram?\n(A) ears\n(B) nose\n(C) mouth\n(D) face",
            "Answer: face",
        ),
        (
            "ai2d/test/0~2Epng-1",
            "<image>What is B in the diagram?\n(A) face\n(B) mouth\n(C) nose\n(D) ears",
            "Answer: ears",
        ),
    ]
