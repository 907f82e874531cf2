from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Sample
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.storage.json_exports import export_shard, join_exports, llava_record, pf1m_record
from tests.support.reference import golden
from tests.support.scored import scored, world


def kept(samples: list[Sample]) -> list[Sample]:
    return select_shard(samples, shard="s", thresholds=Thresholds()).kept


def export(out: Path, samples: list[Sample], size: int = 60) -> list[str]:
    names = []
    for start in range(0, len(samples), size):
        names.append(f"shard-{start:04d}")
        export_shard(kept(samples[start : start + size]), out=out, name=names[-1])
    assert join_exports(out=out, names=names) == len(kept(samples))
    return names


def test_every_record_is_valid_and_its_images_are_there_bit_by_bit(tmp_path: Path) -> None:
    samples = world(300)
    export(tmp_path, samples)
    records = json.loads((tmp_path / "pf1m.json").read_text())
    validator = jsonschema.Draft202012Validator(golden("pf1m.schema.json"))
    expected = kept(samples)
    assert len(records) == len(expected) > 150
    for record, sample in zip(records, expected, strict=True):
        validator.validate(record)
        paths = re.findall(r"<img_path>(.*?)<img_path>", record["input"])
        assert [(tmp_path / path).read_bytes() for path in paths] == [image.data for image in sample.images]
        assert re.sub(r"<img_path>(.*?)<img_path>", "<image>", record["input"]) == sample.instruction
    kinds = {frozenset(record) for record in records}
    assert len(kinds) == 3, "QA, descriptions, and captions with several paragraphs"
    assert any(record.get("filtered_paragraphs") for record in records)


def test_the_schema_s_own_examples_agree_with_the_validator() -> None:
    validator = jsonschema.Draft202012Validator(golden("pf1m.schema.json"))
    examples = golden("pf1m_examples.json")
    assert all(validator.is_valid(record) for record in examples["valid"])
    assert not any(validator.is_valid(case["record"]) for case in examples["invalid"])


@pytest.mark.parametrize(
    ("task", "present", "absent"),
    [
        ("vqa", {"nli_similarity"}, {"sts_similarity", "paragraph_clip_scores", "filtered_paragraphs"}),
        ("classification", {"sts_similarity"}, {"nli_similarity", "paragraph_clip_scores"}),
        ("text", set(), {"nli_similarity", "sts_similarity"}),
    ],
)
def test_a_record_states_the_scores_of_its_task(task: str, present: set[str], absent: set[str]) -> None:
    [sample] = kept([scored("a/b/1", task)])
    record = pf1m_record(sample, ["images/x.png"] * len(sample.images))
    assert present <= set(record) and not absent & set(record)
    assert {"input", "output", "original", "rouge_score", "reward"} <= set(record)


def test_text_that_looks_like_a_marker_cannot_name_a_file() -> None:
    hostile = scored("a/b/1", rewritten="See <<img_path>> and <image> or <img_path>/etc/passwd<img_path>.")
    [sample] = kept([hostile])
    record = pf1m_record(sample, ["images/x.png"])
    assert "<img_path>" not in record["output"]
    jsonschema.validate(record, golden("pf1m.schema.json"))
    assert llava_record(sample, ["x.png"])["conversations"][1]["value"].count("<image>") == 0


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    broken = scored("a/b/1", rewritten="It is \ud83d red, isn't it?")
    export_shard(kept([broken, scored("a/b/2")]), out=tmp_path, name="a")
    join_exports(out=tmp_path, names=["a"])
    assert json.loads((tmp_path / "pf1m.json").read_text())[0]["output"] == "It is \ud83d red, isn't it?"


def test_llava_s_marks_match_its_images(tmp_path: Path) -> None:
    samples = world(200)
    export(tmp_path, samples)
    records: list[dict[str, Any]] = json.loads((tmp_path / "llava.json").read_text())
    for record, sample in zip(records, kept(samples), strict=True):
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].count("<image>") == len(record["images"]) == len(sample.images)
        assert ("image" in record) == (len(sample.images) == 1)
        assert gpt["value"] == sample.rewritten
        assert "<image>\n" in human["value"]
    assert {len(record["images"]) for record in records} == {1, 2}
    described = json.loads((tmp_path / "dataset_info.json").read_text())["pf1m"]
    assert (tmp_path / described["file_name"]).exists()
    assert set(described["columns"].values()) <= set(records[0])


def test_exporting_again_gives_the_same_and_forgets_the_former_selection(tmp_path: Path) -> None:
    samples = world(120)
    export(tmp_path, samples)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    export(tmp_path, samples)
    assert before == {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    export_shard(kept(samples[:3]), out=tmp_path, name="shard-0000")
    join_exports(out=tmp_path, names=["shard-0000"])
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"shard-0000"}
    named = re.findall(r"<img_path>(.*?)<img_path>", (tmp_path / "pf1m.json").read_text())
    assert {tmp_path / path for path in named} == {path for path in (tmp_path / "images").rglob("*") if path.is_file()}


def test_nothing_kept_is_an_empty_list(tmp_path: Path) -> None:
    export_shard([], out=tmp_path, name="a")
    assert join_exports(out=tmp_path, names=["a"]) == 0
    assert json.loads((tmp_path / "pf1m.json").read_text()) == json.loads((tmp_path / "llava.json").read_text()) == []


def test_without_images_the_records_still_name_them(tmp_path: Path) -> None:
    export_shard(kept([scored("a/b/1")]), out=tmp_path, name="a", images=False)
    join_exports(out=tmp_path, names=["a"])
    assert not (tmp_path / "images").exists()
    assert "images/a/" in (tmp_path / "pf1m.json").read_text()
