"""The published dataset read back: to train on, or to rewrite again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import BadSample
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.sources.datasets.pf1m import instruction_of
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import content_hash
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.json_exports import export_images, exporting_records, records_of
from polite_flamingo.storage.location import location
from tests.support.raw_dataset import SHARED, Raw, both
from tests.support.record_strategies import JUNK
from tests.support.scored import world

BUS = {
    "input": "What color is it?\n<img_path>src/a.jpg<img_path>", "output": "It is\n\nyellow. ",
    "original": "Answer: yellow", "rouge_score": 0.3333, "nli_similarity": [-4.1, 3.2, 0.4], "reward": -1.25,
}  # fmt: skip


def one(raw: Raw, record: Any, **extra: str) -> Any:
    samples, quarantined = raw.read("pf1m", raw.json("pf1m.json", [record]), split="", **extra)
    return (samples + quarantined)[0]


def test_the_polite_text_is_the_response_unless_the_raw_one_is_asked_for(raw: Raw) -> None:
    data = raw.image("src/a.jpg")
    sample = one(raw, BUS)
    assert (sample.key, sample.task) == (f"pf1m/train/{content_hash(BUS)}", "vqa")
    assert (sample.instruction, sample.response) == ("What color is it?\n<image>", "It is\n\nyellow. ")
    assert [image.data for image in sample.images] == [data]
    scores = {"reward": -1.25, "rouge_score": 0.3333, "images": ["src/a.jpg"], "source": "pf1m.json#records[0]"}
    assert sample.meta == scores | {"original": "Answer: yellow"}
    again = one(raw, BUS, response="original")
    assert (again.response, again.rewritten, again.meta["output"]) == ("Answer: yellow", None, "It is\n\nyellow. ")
    assert (again.key, again.instruction) == (sample.key, sample.instruction)
    for records in ([BUS], []):  # also where there is nothing to build
        with pytest.raises(SourceError, match="extra response='both': it must be one of output, original"):
            raw.read("pf1m", raw.json("pf1m.json", records), response="both")


@pytest.mark.parametrize(
    ("score", "images", "task"),
    [
        ({"nli_similarity": [0, 1, 0]}, 1, "vqa"),
        ({"sts_similarity": 0.5}, 1, "captioning"),
        ({"sts_similarity": 0.5}, 2, "change_captioning"),
        ({"sts_similarity": 0.5}, 0, "text"),
        ({}, 1, "dialogue"),
        ({}, 0, "text"),
    ],
)
def test_the_scores_tell_the_task(raw: Raw, score: Any, images: int, task: str) -> None:
    raw.image("a.jpg")
    record = {"input": "<img_path>a.jpg<img_path>" * images + "What?", "output": "This.", "original": "this", **score}
    assert one(raw, record).task == task


def test_a_response_shows_no_image(raw: Raw) -> None:
    raw.image("src/a.jpg")
    sample = one(raw, BUS | {"input": "<image>?", "output": "See <image>."})
    assert (sample.instruction, sample.response, sample.meta["unmarked"]) == ("(image)?", "See (image).", 2)


def test_markers_become_marks_where_they_are() -> None:
    text = "Compare <img_path>x/1.png<img_path> and\n<img_path>x/2 .png<img_path>."
    assert instruction_of(text) == ("Compare <image> and\n<image>.", ["x/1.png", "x/2 .png"], 0)
    assert instruction_of("Is <image> one? <img_path>a.png<img_path>") == ("Is (image) one? <image>", ["a.png"], 1)
    for bad in ("q<img_path>a.jpg", "q<img_path>a.jpg</img_path>", "<img_path><img_path>", "<img_path>a\nb<img_path>"):
        with pytest.raises(BadSample, match="named between two <img_path>"):
            instruction_of(bad)


@given(text=st.lists(st.sampled_from(["<img_path>", "<image>", "a", "\n", "/"]), max_size=9).map("".join))
def test_an_input_shows_as_many_images_as_it_names(text: str) -> None:
    try:
        instruction, names, _ = instruction_of(text)
    except BadSample as bad:
        assert bad.reason == "bad_field"
    else:
        assert instruction.count("<image>") == len(names) == text.count("<img_path>") / 2


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"input": None}, "bad_field", "field 'input' must be a string"),
        ({"input": "q<img_path>src/a.jpg"}, "bad_field", "two <img_path>"),
        ({"input": "<img_path>../pf1m.json<img_path>"}, "unsafe_name", "leads out"),
        ({"input": "<img_path>/etc/passwd<img_path>"}, "unsafe_name", "leads out"),
        ({"input": "<img_path>b.jpg<img_path>"}, "missing_image", "none of b.jpg"),
        ({"output": None}, "missing_annotation", "no 'output'"),
        ({"output": ""}, "empty_response", "empty response"),
        ({"output": ["a"]}, "bad_field", "field 'output'"),
        ({"output": "\udce9"}, "bad_field", "not UTF-8"),
        ({"original": 3}, "bad_field", "field 'original'"),
        ({"reward": float("nan")}, "bad_field", "field 'reward'"),
        ({"rouge_score": "0.3"}, "bad_field", "field 'rouge_score'"),
    ],
)
def test_bad_records_are_quarantined(raw: Raw, change: Any, reason: str, says: str) -> None:
    raw.image("src/a.jpg")
    row = one(raw, BUS | change)
    assert (row.payload, row.reason) == ("pf1m.json#records[0]", reason)
    assert says in row.detail


def test_each_bad_record_costs_only_itself(raw: Raw) -> None:
    raw.image("src/a.jpg")
    unanswered = {name: value for name, value in BUS.items() if name not in ("output", "original")}
    rows = raw.read("pf1m", raw.json("p.json", [BUS, 3, BUS, unanswered]))
    assert len(rows[0]) == 1
    assert [(row.payload, row.reason) for row in rows[1]] == [
        ("p.json#records[1]", "bad_field"),
        ("p.json#records[2]", "duplicate_key"),
        ("p.json#records[3]", "missing_annotation"),
    ]
    published = {name: value for name, value in BUS.items() if name != "original"}
    assert one(raw, published).response == BUS["output"]
    assert one(raw, published, response="original").reason == "missing_annotation"


@pytest.mark.parametrize("response", ["output", "original"])
def test_what_a_build_exports_comes_back(tmp_path: Path, response: str) -> None:
    kept = select_shard(world(200), shard="s", thresholds=Thresholds()).kept
    export_images(kept, out=location(tmp_path), name="s")
    with exporting_records(location(tmp_path)) as add:
        add(records_of(kept, "s"))
    files = {"annotations": (tmp_path / "pf1m.json",), "images": tmp_path, "extra": {"response": response}}
    samples, quarantined = both(SOURCES["pf1m"].read(SourceOptions(**files)))
    assert quarantined == [] and len(samples) > 80
    for sample, built in zip(samples, kept, strict=True):
        assert (sample.instruction, sample.images) == (built.instruction, built.images)
        texts = {"output": built.rewritten, "original": built.response}
        assert sample.response == texts.pop(response)
        assert texts.items() <= sample.meta.items()
        assert sample.meta["reward"] == built.scores["reward"]
        told = {"vqa_rationale": "vqa", "classification": "captioning"}.get(built.task, built.task)
        assert sample.task == told


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from([*BUS, "sts_similarity"]), JUNK, max_size=3))
def test_any_record_leaves_once(raw: Raw, change: Any) -> None:
    raw.image("src/a.jpg")
    assert one(raw, BUS | change) is not None


def test_the_examples_of_the_schema(raw: Raw) -> None:
    file = SHARED / "reference/pf1m_examples.json"
    if not file.exists():
        pytest.skip(f"the reference is not at {file}")
    content = json.loads(file.read_text())
    for name in ("src/a.jpg", "src/b.jpg", "x/1.png", "x/2.png", "a.jpg"):
        raw.image(name)
    samples, quarantined = raw.read("pf1m", raw.json("v.json", content["valid"]))
    assert quarantined == []
    assert [(sample.task, sample.instruction, sample.response, sample.meta["original"]) for sample in samples] == [
        ("vqa", "What color is the bus?<image>", "The bus is yellow.", "Answer: yellow"),
        ("captioning", "Describe the image<image>", "A dog runs.", "a dog running"),
        ("change_captioning", "Compare <image> and\n<image>.", "First.\n\nSecond.", "cap"),
        ("captioning", "Describe<image>", "First.\n\nSecond.", "cap"),
        ("text", "No image at all", "Fine.", "ok"),
    ]
    _, quarantined = raw.read("pf1m", raw.json("i.json", [case["record"] for case in content["invalid"][:3]]))
    assert [row.reason for row in quarantined] == ["bad_field"] * 3
