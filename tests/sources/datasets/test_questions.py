"""CLEVR, GQA, OCR-VQA, ChartQA, GRiD-3D: question, answer and image in one record."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import Image
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records import source
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import JUNK


def clevr(number: Any, answer: Any = "yes", **more: Any) -> dict[str, Any]:
    record = {"question_index": number, "question": "Is it red?", "image_filename": "c_1.png", **more}
    return record if answer is None else {**record, "answer": answer}


def reasons(rows: list[Any]) -> list[tuple[str, str]]:
    """Return the place after the file's name, and the reason, of each row."""
    return [(row.payload.split("#")[1], row.reason) for row in rows]


def test_clevr_reads_answers_and_counts_the_test_split_as_missing(raw: Raw) -> None:
    data = raw.image("images/val/c_1.png")
    records = [clevr(0), clevr(1, None), clevr(2, "0"), clevr(3, 3), clevr(4, ""), clevr(5, question=" "), clevr(None)]
    records += [clevr(float("nan")), clevr(2), clevr(6, image_filename="../c_1.png"), clevr(7, image_filename="no.png")]
    samples, quarantined = raw.read("clevr", raw.json("q.json", {"info": {}, "questions": records}))
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("clevr/val/0", "<image>Is it red?", "Answer: yes"),
        ("clevr/val/2", "<image>Is it red?", "Answer: 0"),
    ]
    assert samples[0].images[0].data == data and samples[0].task == "vqa"
    assert samples[0].meta == {"image_id": "c_1.png", "source": "q.json#questions[0]"}
    assert reasons(quarantined) == [
        ("questions[1]", "missing_annotation"), ("questions[3]", "bad_field"), ("questions[4]", "empty_response"),
        ("questions[5]", "bad_field"), ("questions[6]", "bad_field"), ("questions[7]", "bad_field"),
        ("questions[8]", "duplicate_key"), ("questions[9]", "unsafe_name"), ("questions[10]", "missing_image"),
    ]  # fmt: skip


def test_an_empty_a_broken_and_an_outside_image_cost_their_questions_only(raw: Raw) -> None:
    raw.image("c_1.png")
    raw.image("whole.png")
    raw.text("images/empty.png", "")
    raw.text("images/broken.png", "no picture at all")
    raw.text("secret.png", "outside")
    (raw.images / "link.png").symlink_to(raw.root / "secret.png")
    names = ("c_1.png", "empty.png", "broken.png", "link.png", "whole.png")
    records = [clevr(number, image_filename=name) for number, name in enumerate(names)]
    samples, quarantined = raw.read("clevr", raw.json("q.json", {"questions": records}))
    assert [s.key for s in samples] == ["clevr/val/0", "clevr/val/4"]
    assert reasons(quarantined) == [
        ("questions[1]", "empty_image"), ("questions[2]", "corrupt_image"), ("questions[3]", "unsafe_name"),
    ]  # fmt: skip


def test_bytes_of_another_encoding_cost_their_question_only(raw: Raw) -> None:
    raw.image("c_1.png")
    file = raw.root / "q.json"
    content = json.dumps({"questions": [clevr(0, "café"), clevr(1, "tea")]}, ensure_ascii=False)
    file.write_bytes(content.encode("latin-1"))
    samples, quarantined = raw.read("clevr", file)
    assert [s.response for s in samples] == ["Answer: tea"]
    assert reasons(quarantined) == [("questions[0]", "bad_field")]


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


def book(*pairs: tuple[Any, Any], split: Any = 1, url: Any = "http://shop.example/I/61Y.jpg") -> dict[str, Any]:
    questions, answers = zip(*pairs, strict=True) if pairs else ((), ())
    return {"imageURL": url, "questions": list(questions), "answers": list(answers), "title": "T", "split": split}


def test_ocr_vqa_asks_all_questions_of_a_book_and_names_the_image_by_its_url(raw: Raw) -> None:
    data = raw.image("images/0761183272.png"), raw.image("9.jpg")
    books = {
        "0761183272": book(("Who wrote  it?", "Sandra"), ("Which year?", "2016"), url="http://x.example/a.png?size=1"),
        "9": book(("Who wrote it?", "Kim"), split=3, url="http://x.example/no-suffix"),
    }
    samples, quarantined = raw.read("ocr_vqa", raw.json("dataset.json", books), split="")
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("ocr_vqa/train/0761183272-0", "<image>Who wrote it?", "Answer: Sandra"),
        ("ocr_vqa/train/0761183272-1", "<image>Which year?", "Answer: 2016"),
        ("ocr_vqa/test/9-0", "<image>Who wrote it?", "Answer: Kim"),
    ]
    assert tuple(s.images[0].data for s in samples[1:]) == data
    assert samples[1].meta["source"] == "dataset.json#books[0].questions[1]"
    assert [s.key for s in raw.read("ocr_vqa", raw.json("dataset.json", books), split="test")[0]] == [samples[2].key]


def test_ocr_vqa_bad_books_and_lists_of_different_length(raw: Raw) -> None:
    raw.image("a.jpg")
    good = book(("Who?", "Kim"), ("When?", "2016"))
    books: dict[str, Any] = {
        "a": {**good, "questions": ["Who?", "When?", "Where?"]}, "b": {**good, "answers": ["x", "y", "z"]},
        "c": {**good, "split": 4}, "d": {**good, "split": True}, "e": {**good, "split": "1"}, "f": book(), "g": 7,
        "h": {**good, "answers": "Kim"}, "i": {"split": 1}, "j": book(("Who?", "Kim"), url=5),
        "../a": book(("Who?", "Kim")), "k": book(("Who?", "Kim"), url="http://[x"), "l": book((3, ""), ("Who?", "")),
        "m": book(("Who?", float("nan")), split=2), "": book(("Who?", "Kim")),
    }  # fmt: skip
    samples, quarantined = raw.read("ocr_vqa", raw.json("dataset.json", books), split="")
    assert [s.key for s in samples] == ["ocr_vqa/train/a-0", "ocr_vqa/train/a-1"]
    assert reasons(quarantined) == [
        ("books[0].questions[2]", "missing_annotation"), ("books[1].questions[0]", "missing_image"),
        ("books[1].questions[1]", "missing_image"), ("books[1].questions[2]", "bad_field"),
        ("books[2].questions[0]", "bad_field"), ("books[3].questions[0]", "bad_field"),
        ("books[4].questions[0]", "bad_field"), ("books[5].questions[0]", "missing_annotation"),
        ("books[6].questions[0]", "bad_field"), ("books[7].questions[0]", "bad_field"),
        ("books[8].questions[0]", "bad_field"), ("books[9].questions[0]", "bad_field"),
        ("books[10].questions[0]", "unsafe_name"), ("books[11].questions[0]", "bad_field"),
        ("books[12].questions[0]", "bad_field"), ("books[12].questions[1]", "empty_response"),
        ("books[13].questions[0]", "bad_field"), ("books[14].questions[0]", "bad_field"),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    questions=st.lists(st.sampled_from(["Who?", "When?"]), max_size=4) | JUNK,
    answers=st.lists(st.sampled_from(["Kim", "2016"]), max_size=4) | JUNK,
    split=st.sampled_from([1, 2, 3]) | JUNK,
    url=st.just("http://shop.example/1.jpg") | JUNK,
)
def test_each_question_of_a_book_leaves_once(raw: Raw, questions: Any, answers: Any, split: Any, url: Any) -> None:
    raw.image("a.jpg")
    spoiled = {"imageURL": url, "questions": questions, "answers": answers, "split": split}
    file = raw.json("dataset.json", {"a": spoiled, "b": book(("Who?", "Kim"))})
    samples, quarantined = raw.read("ocr_vqa", file, split="")
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    readable = isinstance(questions, list) and isinstance(answers, list) and type(split) is int and 1 <= split <= 3
    rows = max(len(questions), len(answers), 1) if readable else 1
    assert set(places) == {f"dataset.json#books[0].questions[{n}]" for n in range(rows)} | {
        "dataset.json#books[1].questions[0]"
    }
    assert len(places) == rows + 1


def test_ocr_vqa_fetches_a_missing_image_only_if_asked_to(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, hosts: tuple[str, ...]) -> Image:
        fetched.append((url, hosts))
        return Image(extension="jpg", data=b"from afar")

    monkeypatch.setattr(source, "fetch", fetch)
    raw.image("b.jpg")
    file = raw.json("dataset.json", {"a": book(("Who?", "Kim")), "b": book(("Who?", "Kim"))})
    samples, quarantined = raw.read("ocr_vqa", file, split="")
    assert (len(samples), [row.reason for row in quarantined], fetched) == (1, ["missing_image"], [])
    options = SourceOptions(annotations=(file,), images=raw.images, download_from=("shop.example",))
    samples, quarantined = both(SOURCES["ocr_vqa"].read(options))
    assert quarantined == [] and [s.images[0].data == b"from afar" for s in samples] == [True, False]
    assert fetched == [("http://shop.example/I/61Y.jpg", ("shop.example",))]


def chart(**more: Any) -> dict[str, Any]:
    return {"imgname": "41.png", "query": "How many bars?", "label": "3", **more}


def test_chartqa_names_its_questions_by_image_and_text(raw: Raw) -> None:
    data = raw.image("png/41.png")
    records: list[Any] = [
        chart(), chart(query="How  high?", label="0.57"), chart(), chart(query="Which?", label=3), chart(query=""),
        chart(query="A?", label=None), chart(query="B?", label=" "), chart(query="C?", imgname="../png/41.png"), [],
        chart(imgname=None), chart(query="D?", label=float("nan")), {"imgname": "41.png", "label": "3"},
    ]  # fmt: skip
    samples, quarantined = raw.read("chartqa", raw.json("test_human.json", records), split="test")
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("chartqa/test/41-ef1e852e0f38", "<image>How many bars?", "Answer: 3"),
        ("chartqa/test/41-d348ed3a5a11", "<image>How high?", "Answer: 0.57"),
    ]
    assert samples[0].images[0].data == data and samples[0].meta["image_id"] == "41.png"
    assert reasons(quarantined) == [
        ("questions[2]", "duplicate_key"), ("questions[3]", "bad_field"), ("questions[4]", "bad_field"),
        ("questions[5]", "missing_annotation"), ("questions[6]", "empty_response"), ("questions[7]", "unsafe_name"),
        ("questions[8]", "bad_field"), ("questions[9]", "bad_field"), ("questions[10]", "bad_field"),
        ("questions[11]", "bad_field"),
    ]  # fmt: skip


def grid(words: Any, answer: Any = "left", image: Any = 7) -> dict[str, Any]:
    return {"question": words, "answer": answer, "img_idx": image, "task": "relation_prediction"}


def test_grid_3d_joins_the_words_and_takes_the_split_from_the_lists(raw: Raw) -> None:
    data = raw.image("images/00007.png")
    records = [
        grid(["where", "is", "the", "mug", ",", "seen", "from", "the", "car", "?"]), grid(["is", "it", "?"], "yes"),
        grid(["is", "it", "?"], "no"),
    ]  # fmt: skip
    questions = raw.json("questions.json", records)
    lists = [raw.json("test_idxs.json", [0, "1"]), raw.json("train_idxs_small.json", [float("nan"), {}])]
    samples, quarantined = raw.read("grid_3d", lists[0], questions, lists[1], split="")
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("grid_3d/test/0", "<image>where is the mug, seen from the car?", "Answer: left"),
        ("grid_3d/test/1", "<image>is it?", "Answer: yes"),
        ("grid_3d/unlisted/2", "<image>is it?", "Answer: no"),
    ]
    assert samples[0].images[0].data == data
    assert len(raw.read("grid_3d", *lists, questions, split="test")[0]) == 2
    assert [s.key for s in raw.read("grid_3d", questions, split="val")[0]] == [f"grid_3d/val/{n}" for n in range(3)]
    with pytest.raises(SourceError, match="holds no record of split 'val', only of: test, unlisted"):
        raw.read("grid_3d", *lists, questions, split="val")


def test_grid_3d_bad_records(raw: Raw) -> None:
    raw.image("7.png")
    records: list[Any] = [
        grid([]), grid("is it ?"), grid(["is", 3]), grid(["it"], 3), grid(["it"], ""), grid(["it"], None), 8,
        grid(["it"], image="../7"), grid(["it"], image=8), {"answer": "x"}, grid(["it"], image=float("nan")),
    ]  # fmt: skip
    samples, quarantined = raw.read("grid_3d", raw.json("questions.json", records))
    assert samples == []
    assert [row.reason for row in quarantined] == [
        "bad_field", "bad_field", "bad_field", "bad_field", "empty_response", "missing_annotation", "bad_field",
        "unsafe_name", "missing_image", "bad_field", "bad_field",
    ]  # fmt: skip
    assert reasons(quarantined)[6] == ("questions[6]", "bad_field")


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
    samples, quarantined = real("clevr", "", *files, pictures=["images/trainA/CLEVR_trainA_000000.png"])
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        (
            "clevr/trainA/0",
            "<image>Are there any gray things made of the same material as the big cyan cylinder?",
            "Answer: no",
        )
    ]
    assert [(row.key, row.reason) for row in quarantined] == [
        ("clevr/test/0", "missing_annotation"),
        ("clevr/test/149985", "missing_annotation"),
    ]


def test_real_gqa(real: Any) -> None:
    file = "gqa/train_balanced_questions.first2.TRANSCRIBED.json"
    samples, quarantined = real("gqa", "", file, pictures=["images/2354786.jpg", "2375429.jpg"])
    assert quarantined == []
    assert [(s.key, s.instruction, s.response, s.meta["full_answer"]) for s in samples] == [
        ("gqa/train/02930152", "<image>Is the sky dark?", "Answer: yes", "Yes, the sky is dark."),
        ("gqa/train/07333408", "<image>What is on the white wall?", "Answer: pipe", "The pipe is on the wall."),
    ]


def test_real_ocr_vqa(real: Any) -> None:
    samples, quarantined = real("ocr_vqa", "", "ocr_vqa/dataset.first1.TRANSCRIBED.json", pictures=["761183272.jpg"])
    assert quarantined == []
    assert [(s.key, s.instruction, s.response) for s in samples] == [
        ("ocr_vqa/train/761183272-0", "<image>Who wrote this book?", "Answer: Sandra Boynton"),
        (
            "ocr_vqa/train/761183272-1",
            "<image>What is the title of this book?",
            "Answer: Mom's Family Wall Calendar 2016",
        ),
        ("ocr_vqa/train/761183272-2", "<image>What is the genre of this book?", "Answer: Calendars"),
        ("ocr_vqa/train/761183272-3", "<image>Is this a games related book?", "Answer: No"),
        ("ocr_vqa/train/761183272-4", "<image>What is the year printed on this calendar?", "Answer: 2016"),
    ]


def test_real_chartqa(real: Any) -> None:
    file = "chartqa/ChartQA Dataset/test/test_human.first25.TRANSCRIBED.json"
    pictures = ["png/41699051005347.png", "test/png/3960.png"]
    samples, quarantined = real("chartqa", "", file, split="test", pictures=pictures)
    assert [(s.key.rsplit("-", 1)[0], s.instruction, s.response) for s in samples] == [
        ("chartqa/test/41699051005347", "<image>How many food item is shown in the bar graph?", "Answer: 14"),
        (
            "chartqa/test/41699051005347",
            "<image>What is the difference in value between Lamb and Corn?",
            "Answer: 0.57",
        ),
        ("chartqa/test/3960", "<image>What was the 4th most popular emotion?", "Answer: Inspired"),
        (
            "chartqa/test/3960",
            "<image>How many more people felt inspired frequently than depressed frequently?",
            "Answer: 0.03",
        ),
    ]
    assert Counter(row.reason for row in quarantined) == {"missing_image": 21}
