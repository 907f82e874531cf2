"""PointQA: a point's own answer, an arrow whose colour the instruction names, splits by lists of images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from polite_flamingo.images.decoding import decode
from polite_flamingo.sample import BadSample
from polite_flamingo.sources.datasets.pointqa import CLASSES, agreed_meaning
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.drawn_marks import COLOURS, colour_of
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import SHARED, Raw
from tests.support.record_strategies import JUNK, spoiled

SOURCES_HERE = [name for name in SOURCES if name.startswith("pointqa_")]


def point(x: Any = 50, y: Any = 25, ans: Any = "red") -> dict[str, Any]:
    return {"x": x, "y": y, "ans": ans}


def thing(name: str = "shirt") -> dict[str, Any]:
    return {"names": [name], "attributes": ["red"], "x": 1, "y": 2, "w": 3, "h": 4}


def local(*points: Any, answers: Any = ("blue", "red"), **fields: Any) -> dict[str, Any]:
    question = {"id": 7, "question": "What color is this shirt?", "all_ans": [*answers], "points": [*points]}
    return question | {"all_objs": [thing() for _ in points]} | fields


def spatial(question: Any = "What color is this horse?", answer: Any = "brown", where: Any = None) -> dict[str, Any]:
    return {"question": question, "answer": answer, "point": where or point(), "id": 7}


def test_each_point_of_a_local_question_has_its_own_answer(raw: Raw) -> None:
    raw.image("VG_100K/7.jpg")
    raw.image("VG_100K_2/8.jpg")
    # as published: three points, but two answers in any order
    content = {"7": [local(point(10, 10, "red"), point(50, 20, "blue"), point(90, 40, "red"))], "8": [local(point())]}
    samples, quarantined = raw.read("pointqa_local", raw.json("localqa_dataset.json", content))
    assert quarantined == []
    assert [(s.key, s.response, s.meta["point"], s.meta["source"]) for s in samples] == [
        ("pointqa_local/val/7-0-0", "Answer: red", [10, 10], "localqa_dataset.json#images[0].questions[0].points[0]"),
        ("pointqa_local/val/7-0-1", "Answer: blue", [50, 20], "localqa_dataset.json#images[0].questions[0].points[1]"),
        ("pointqa_local/val/7-0-2", "Answer: red", [90, 40], "localqa_dataset.json#images[0].questions[0].points[2]"),
        ("pointqa_local/val/8-0-0", "Answer: red", [50, 25], "localqa_dataset.json#images[1].questions[0].points[0]"),
    ]
    for sample in samples:
        assert "What color is this shirt?" in sample.instruction
        assert f"the {colour_of(sample.key)} arrow" in sample.instruction.lower()
        assert sample.meta["mark"] == f"{colour_of(sample.key)} arrow" and sample.task == "vqa"


def test_the_arrow_that_the_instruction_names_points_at_the_point(raw: Raw) -> None:
    raw.image("7.jpg", 200, 150, colour="gray")
    content = {"7": [spatial(where=point(120, 60)) for _ in range(60)]}
    samples, _ = raw.read("pointqa_spatial", raw.json("spatial_dataset.json", content))
    seen = set()
    for sample in samples:
        (colour,) = [name for name in COLOURS if f" {name} arrow" in sample.instruction]
        seen.add(colour)
        pixels = np.asarray(decode(sample.images[0].data)).astype(int)
        ys, xs = np.nonzero(np.abs(pixels - COLOURS[colour]).max(axis=2) < 40)
        distances = np.hypot(xs - 120, ys - 60)
        assert distances.min() < 6 and 15 < distances.max() < 0.16 * (200 * 150) ** 0.5
        assert sample.images[0].extension == "jpg"
    assert seen == set(COLOURS)


def test_looktwice_asks_at_one_of_three_levels(raw: Raw) -> None:
    raw.image("7.jpg")
    levels = {
        "obj_question": "How many of these dogs are there?",
        "super_question": "How many of these animals are there?",
        "general_question": "How many of these are there?",
    }
    qa = {"id": 7, **levels, "ans": "2", "bbox": thing("dog"), "point": point(ans="2"), "obj_type": "dogs"}
    samples, quarantined = raw.read("pointqa_looktwice", raw.json("looktwiceqa_dataset.json", {"7": [qa] * 60}))
    assert quarantined == [] and {sample.response for sample in samples} == {"Answer: 2"}
    asked = [next(level for level, text in levels.items() if text in sample.instruction) for sample in samples]
    assert all(asked.count(level) > 10 for level in levels)
    again, _ = raw.read("pointqa_looktwice", raw.json("looktwiceqa_dataset.json", {"7": [qa] * 60}))
    assert again == samples


def test_verbal_questions_have_no_arrow(raw: Raw) -> None:
    data = raw.image("7.jpg")
    content = {"7": [{"question": "What color is the horse near the water?", "answer": "brown", "id": 7}]}
    samples, _ = raw.read("pointqa_verbal", raw.json("verbal_dataset.json", content))
    assert samples[0].instruction == "<image>What color is the horse near the water?"
    assert (samples[0].response, samples[0].images[0].data) == ("Answer: brown", data)


def test_general_takes_either_name_of_the_answer(raw: Raw) -> None:
    raw.image("7.jpg")
    questions = [spatial("Who is this?", "a cook"), {"question": "Who is this?", "ans": "a cook", "point": point()}]
    samples, quarantined = raw.read("pointqa_general", raw.json("general_dataset.json", {"7": questions}))
    assert quarantined == [] and [sample.response for sample in samples] == ["Answer: a cook"] * 2


def test_intent_takes_what_most_workers_meant(raw: Raw) -> None:
    raw.image("JPEGImages/2010_001431.jpg", 100, 90)
    points = {
        "10_20": [2], "30_40": [7, 7, -1], "50_60": [35, 15, 35], "70_80": [2, 22], "11_12": [-1, -1, 5], "13_14": [],
        "15_16": [41], "17_18": [0], "19_20": "2", "21_22": [2.0], "x": [2], "99_91": [2], "-1_5": [2],
    }  # fmt: skip
    samples, quarantined = raw.read(
        "pointqa_intent", raw.json("pascal_gt.json", {"2010_001431": points}), split="train"
    )
    assert [(s.key, s.response) for s in samples] == [
        ("pointqa_intent/train/2010_001431-10_20", "Answer: the whole bicycle"),
        ("pointqa_intent/train/2010_001431-30_40", "Answer: the whole car"),
        ("pointqa_intent/train/2010_001431-50_60", "Answer: a part of the person"),
    ]
    assert "What is this referring to?" in samples[0].instruction
    assert [(row.payload.removeprefix("pascal_gt.json#images[0]."), row.reason) for row in quarantined] == [
        ("points[3]", "missing_annotation"), ("points[4]", "missing_annotation"), ("points[5]", "missing_annotation"),
        ("points[6]", "bad_field"), ("points[7]", "bad_field"), ("points[8]", "bad_field"), ("points[9]", "bad_field"),
        ("points[10]", "bad_field"), ("points[11]", "bad_field"), ("points[12]", "bad_field"),
    ]  # fmt: skip
    assert agreed_meaning([20]) == "the whole TV monitor" and agreed_meaning([40, 40, 1]) == "a part of the TV monitor"
    assert len(CLASSES) == 20
    with pytest.raises(BadSample):
        agreed_meaning([True])


def test_intent_as_questions(raw: Raw) -> None:
    raw.image("2010_001431.jpg")
    qa = {"id": "2010_001431", "question": "What is this referring to?", "ans": "part", "point": point(ans="part")}
    samples, _ = raw.read("pointqa_intent", raw.json("intentqa_vqa.json", {"2010_001431": [qa]}))
    assert [(s.key, s.response) for s in samples] == [("pointqa_intent/val/2010_001431-0", "Answer: part")]


def test_lists_of_images_select_with_split(raw: Raw) -> None:
    for number in (7, 8, 9):
        raw.image(f"{number}.jpg")
    data = raw.json("spatial_dataset.json", {str(number): [spatial()] for number in (7, 8, 9)})
    lists = raw.json("train_imgs_vs.json", ["7"]), raw.json("localqa_testdev_imgs.json", [8])
    for files in ((data, *lists), (*lists, data)):
        assert [s.key for s in raw.read("pointqa_spatial", *files, split="train")[0]] == ["pointqa_spatial/train/7-0"]
        assert [s.key for s in raw.read("pointqa_spatial", *files, split="testdev")[0]] == [
            "pointqa_spatial/testdev/8-0"
        ]
        assert [s.key for s in raw.read("pointqa_spatial", *files, split="")[0]] == [
            "pointqa_spatial/train/7-0", "pointqa_spatial/testdev/8-0", "pointqa_spatial/unlisted/9-0",
        ]  # fmt: skip
    with pytest.raises(SourceError, match="no record of split 'val'"):
        raw.read("pointqa_spatial", data, *lists, split="val")


def test_files_that_say_too_little_are_a_clear_error(raw: Raw) -> None:
    with pytest.raises(SourceError, match="pass the one that holds the questions too"):
        raw.read("pointqa_local", raw.json("train_imgs.json", ["7"]))
    with pytest.raises(SourceError, match="holds none of train, val, test"):
        raw.read("pointqa_local", raw.json("imgs.json", ["7"]))
    with pytest.raises(SourceError, match="neither an object of images nor a list of image ids"):
        raw.read("pointqa_local", raw.json("train.json", [spatial()]))


def test_each_bad_local_question_is_quarantined_once(raw: Raw) -> None:
    raw.image("7.jpg")
    questions = [
        local(point()), local(), local(point(), point(), all_objs=[thing()]), local(point(), points="oops"), "oops",
        local(point(), all_objs=None), {"question": "What?"}, local(point(ans="green")), local("oops"),
        local(point(), question=" "), local(point(-1, 3)), local(point(50, 50.5)), local(point("1", 2)),
        local(point(float("nan"), 2)), local(point(ans=" "), answers=[" "]), local({"x": 1, "y": 2}, answers=[None]),
        local(point(), question="caf\udce9"), local(point(ans="blue"), point(101, 2), point(3, 4)),
    ]  # fmt: skip
    samples, quarantined = raw.read(
        "pointqa_local", raw.json("file.json", {"7": questions, "8": [local(point())], "9": 3})
    )
    assert [sample.key.rsplit("/", 1)[1] for sample in samples] == ["7-0-0", "7-17-0", "7-17-2"]
    where = [(row.payload.removeprefix("file.json#images"), row.reason) for row in quarantined]
    assert where == [
        ("[0].questions[1]", "missing_annotation"),
        ("[0].questions[2]", "bad_field"), ("[0].questions[3]", "bad_field"), ("[0].questions[4]", "bad_field"),
        ("[0].questions[5]", "bad_field"), ("[0].questions[6]", "bad_field"),
        ("[0].questions[7].points[0]", "bad_field"), ("[0].questions[8].points[0]", "bad_field"),
        ("[0].questions[9].points[0]", "bad_field"), ("[0].questions[10].points[0]", "bad_field"),
        ("[0].questions[11].points[0]", "bad_field"), ("[0].questions[12].points[0]", "bad_field"),
        ("[0].questions[13].points[0]", "bad_field"), ("[0].questions[14].points[0]", "empty_response"),
        ("[0].questions[15].points[0]", "missing_annotation"), ("[0].questions[16].points[0]", "bad_field"),
        ("[0].questions[17].points[1]", "bad_field"), ("[1].questions[0].points[0]", "missing_image"),
        ("[2][0]", "bad_field"),
    ]  # fmt: skip
    assert "2 points for 1 objects" in quarantined[1].detail
    assert "the point (-1, 3) lies outside the image (100x50)" in quarantined[9].detail


def test_bad_images_and_ids_are_quarantined(raw: Raw) -> None:
    raw.image("7.jpg")
    (raw.images / "8.jpg").write_bytes(b"no picture")
    (raw.images / "9.jpg").write_bytes(b"")
    (raw.images / "10.jpg").write_bytes((raw.images / "7.jpg").read_bytes()[:300])
    ids = ["8", "9", "10", "../7", "", "7", "caf\udce9", "x" * 300]
    content = ", ".join(
        f'"{image_id}": [{{"question": "a", "answer": "b", "point": {{"x": 1, "y": 1}}}}]' for image_id in ids
    )
    file = raw.root / "spatial.json"
    file.write_bytes(f'{{{content}, "7": []}}'.encode("utf-8", "surrogateescape"))
    samples, quarantined = raw.read("pointqa_spatial", file)
    assert [sample.key for sample in samples] == ["pointqa_spatial/val/7-0"]
    assert [row.reason for row in quarantined] == [
        "corrupt_image", "empty_image", "corrupt_image", "unsafe_name", "bad_field", "bad_field", "bad_field",
    ]  # fmt: skip


def test_an_image_that_occurs_twice_is_read_once(raw: Raw) -> None:
    raw.image("7.jpg")
    qa = '[{"question": "a", "answer": "b", "point": {"x": 1, "y": 1}}]'
    samples, quarantined = raw.read("pointqa_spatial", raw.text("spatial.json", f'{{"7": {qa}, "7": {qa}}}'))
    assert len(samples) == 1 and [row.reason for row in quarantined] == ["duplicate_key"]


@pytest.mark.parametrize("source", SOURCES_HERE)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=spoiled([spatial("q 0?"), spatial("q 1?"), spatial("q 2?")]), places=spoiled([point(), point(), point()]))
def test_spoiled_records_cost_only_themselves(raw: Raw, source: str, data: Any, places: Any) -> None:
    raw.image("7.jpg")
    raw.image("JPEGImages/7.jpg")
    questions, bad = data
    for question, where in zip(questions, places[0], strict=True):
        if isinstance(question, dict) and "point" in question and question["point"] == point():
            question["point"] = where
        if isinstance(question, dict) and source == "pointqa_looktwice" and "question" in question:
            question |= dict.fromkeys(("obj_question", "super_question", "general_question"), question["question"])
        if isinstance(question, dict) and source == "pointqa_local":
            question |= {"points": [question.pop("point", None)], "all_ans": ["red"], "all_objs": [thing()]}
    samples, quarantined = raw.read(source, raw.json("file.json", {"7": questions}))
    found = {sample.meta["source"] for sample in samples} | {row.payload for row in quarantined}
    assert len(found) == len(samples) + len(quarantined) == 3
    good = {0, 1, 2} - bad - places[1]
    assert good <= {int(sample.key.rsplit("/", 1)[1].split("-")[1]) for sample in samples}


@pytest.mark.parametrize("source", SOURCES_HERE)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JUNK)
def test_a_whole_file_of_junk_is_rows_or_one_clear_line(raw: Raw, source: str, content: Any) -> None:
    try:
        samples, _ = raw.read(source, raw.json("file.json", {"7": content}))
        assert samples == []
        raw.read(source, raw.json("file.json", content))
    except SourceError as error:
        assert "\n" not in str(error)


SPATIAL = "pointqa/VerbalSpatial/spatial_dataset.head60.json"
LISTS = [f"pointqa/VerbalSpatial/{split}_imgs_vs.cut.json" for split in ("train", "val", "test")]
INTENT = "pointqa/IntentQA/pascal_gt_clean.head10.json"


def pictures_of(file: str) -> dict[str, tuple[int, int]]:
    """A picture for each image of an excerpt, large enough for all its points."""
    return {f"{image_id}.jpg": (640, 640) for image_id in json.loads((SHARED / "samples" / file).read_text())}


def test_real_spatial(real: Any) -> None:
    samples, quarantined = real("pointqa_spatial", "pointqa", SPATIAL, *LISTS, pictures=pictures_of(SPATIAL))
    assert (len(samples), quarantined) == (80, [])
    assert [(s.key, s.instruction, s.response, s.meta["point"]) for s in samples[:2]] == [
        (
            "pointqa_spatial/train/2393743-0",
            "<image>How is the small this elephant? The yellow arrow points at what is meant.",
            "Answer: sitting",
            [398, 163],
        ),
        (
            "pointqa_spatial/train/2403091-0",
            "<image>Look at the place that the magenta arrow points at. What color is this horse?",
            "Answer: brown",
            [469, 158],
        ),
    ]
    of_split = {split: sum(f"/{split}/" in sample.key for sample in samples) for split in ("train", "val", "test")}
    assert of_split == {"train": 62, "val": 6, "test": 12}
    picture = {"2411845.jpg": (640, 480)}
    samples, quarantined = real("pointqa_spatial", "pointqa", SPATIAL, *LISTS, split="val", pictures=picture)
    assert [sample.key for sample in samples] == ["pointqa_spatial/val/2411845-0"]
    assert [row.reason for row in quarantined] == ["missing_image"] * 5


def test_real_verbal(real: Any) -> None:
    file = SPATIAL.replace("spatial_", "verbal_")
    samples, quarantined = real("pointqa_verbal", "pointqa", file, pictures=pictures_of(file))
    assert (len(samples), quarantined) == (80, [])
    assert [(s.key, s.instruction, s.response) for s in samples[:3]] == [
        (
            "pointqa_verbal/train/2393743-0",
            "<image>How is the small elephant near the back positioned?",
            "Answer: sitting",
        ),
        ("pointqa_verbal/train/2403091-0", "<image>What color is the horse near the water?", "Answer: brown"),
        (
            "pointqa_verbal/train/2403091-1",
            "<image>What is the color of the horse closest to the water?",
            "Answer: brown",
        ),
    ]


def test_real_intent(real: Any) -> None:
    samples, quarantined = real("pointqa_intent", "pointqa", INTENT, pictures=pictures_of(INTENT))
    assert (len(samples), quarantined) == (131, [])  # the authors' "clean" file: no point that workers disagree on
    assert [(s.key, s.instruction, s.response) for s in samples[:2]] == [
        (
            "pointqa_intent/train/2010_001431-186_329",
            "<image>What is this referring to? The magenta arrow points at what is meant.",
            "Answer: the whole bicycle",
        ),
        (
            "pointqa_intent/train/2010_001431-188_265",
            "<image>The green arrow marks what I am asking about. What is this referring to?",
            "Answer: a part of the person",
        ),
    ]
    assert samples[6].key.endswith("175_128") and samples[6].response == "Answer: the whole car"  # [7, 7, -1]
    small = {"2010_001431.jpg": (500, 333)}
    samples, quarantined = real("pointqa_intent", "pointqa", INTENT, pictures=small)
    assert [row.reason for row in quarantined].count("bad_field") == 7 - len(samples)  # points below the picture
    assert [row.reason for row in quarantined].count("missing_image") == 124


def test_real_image_lists_of_local_and_looktwice(real: Any) -> None:
    for source, file in (
        ("pointqa_local", "pointqa/LocalQA/localqa_train_imgs.head50.json"),
        ("pointqa_looktwice", "pointqa/LookTwiceQA/looktwiceqa_val_imgs.head50.json"),
    ):
        with pytest.raises(SourceError, match="lists of images: pass the one that holds the questions too"):
            real(source, "pointqa", file)
