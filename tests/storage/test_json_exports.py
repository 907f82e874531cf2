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
from polite_flamingo.storage.json_exports import (
    export_images,
    exporting_records,
    forget_images,
    llava_record,
    pf1m_record,
    records_of,
)
from polite_flamingo.storage.location import location
from tests.support.reference import golden
from tests.support.scored import scored, world


def kept(samples: list[Sample]) -> list[Sample]:
    return select_shard(samples, shard="s", thresholds=Thresholds()).kept


def export(out: Path, samples: list[Sample], size: int = 60) -> None:
    with exporting_records(location(out)) as add:
        for start in range(0, len(samples), size):
            some, name = kept(samples[start : start + size]), f"shard-{start}"
            export_images(some, out=location(out), name=name)
            add(records_of(some, name))


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
    export(tmp_path, [broken, scored("a/b/2")])
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


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_exporting_again_gives_the_same_and_forgets_the_former_selection(tmp_path: Path) -> None:
    samples = world(120)
    export(tmp_path, samples)
    before = files(tmp_path)
    (tmp_path / "images" / "shard-0" / "a.png.tmp-0123").write_bytes(b"of a killed writer")
    export(tmp_path, samples)
    assert files(tmp_path) == before
    export(tmp_path, samples[:3])
    forget_images(location(tmp_path), "shard-60")
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"shard-0"}
    named = re.findall(r"<img_path>(.*?)<img_path>", (tmp_path / "pf1m.json").read_text())
    assert {tmp_path / path for path in named} == {path for path in (tmp_path / "images").rglob("*") if path.is_file()}


def test_an_export_that_ends_early_leaves_the_former_records(tmp_path: Path) -> None:
    export(tmp_path, world(6))
    before = files(tmp_path)
    with pytest.raises(KeyError), exporting_records(location(tmp_path)) as add:
        add(records_of(kept(world(3)), "a"))
        raise KeyError
    assert files(tmp_path) == before


def test_nothing_kept_is_an_empty_list(tmp_path: Path) -> None:
    export(tmp_path, [])
    assert (tmp_path / "pf1m.json").read_text() == (tmp_path / "llava.json").read_text() == "[\n]\n"


def test_a_bucket_gets_what_a_disk_gets(tmp_path: Path, bucket: str) -> None:
    samples, there = world(18), location(bucket)
    export(tmp_path, samples, 9)
    for size in (4, 9):
        with exporting_records(there) as add:
            for start in range(0, len(samples), size):
                some, name = kept(samples[start : start + size]), f"shard-{start}"
                export_images(some, out=there, name=name)
                add(records_of(some, name))
    for name in ("shard-4", "shard-8", "shard-12", "shard-16"):
        forget_images(there, name)
    assert {name: (there / name).read_bytes() for name in there.names()} == files(tmp_path)


def test_a_text_that_a_filter_does_not_read_has_no_score_of_it() -> None:
    skipped = {"not_scored": {"nli": "language zh", "sts": "language zh"}, "nli": None, "sts": None}
    [kept] = select_shard([scored("vqa/t/1", **skipped)], shard="s", thresholds=Thresholds()).kept
    assert {"nli_similarity", "sts_similarity"}.isdisjoint(pf1m_record(kept, ["a.jpg"]))
