"""Pairs of others become samples: the picture, the prompt, both sides; every bad row has a name for what is wrong."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from polite_flamingo.preference.formats.pair_sources import PAIR_SOURCES
from polite_flamingo.preference.formats.sides import broken_encoding, script_of
from polite_flamingo.sample import Sample
from polite_flamingo.sources.records.source import SourceOptions
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import spoiled

GOOD, BAD = "There are two circles in the picture.", "I see seven green triangles."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


RECORDS: dict[str, dict[str, Any]] = {
    "mllm_dpo": {
        "image": "a.jpg", "question": {"from": "human", "value": "<image>\nHow many circles?"},
        "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD},
        "helpfulness_gpt4v": 4, "ref_win_logp": -80.5,
    },
    "mmpr": {"image": "a.jpg", "question": "<image>\nHow many circles?", "chosen": GOOD, "rejected": BAD},
    "trl_pairs": {
        "prompt": [user("How many circles?")], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)],
        "images": ["a.jpg"], "score_chosen": 8.0, "score_rejected": 3.0,
    },
    "llama_factory_pairs": {
        "conversations": [{"from": "human", "value": "<image>How many circles?"}],
        "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}, "images": ["a.jpg"],
    },
}  # fmt: skip


def read(raw: Raw, source: str, *records: Any) -> tuple[list[Sample], list[Any]]:
    raw.image("a.jpg")
    file = raw.json("pairs.json", list(records))
    return both(PAIR_SOURCES[source].read(SourceOptions(annotations=(file,), images=raw.images)))


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


def reasons(raw: Raw, source: str, *records: Any) -> list[str]:
    samples, quarantined = read(raw, source, *records)
    assert not samples, samples
    return [row.reason for row in quarantined]


@pytest.mark.parametrize("source", RECORDS)
def test_a_record_of_each_format_becomes_a_pair_with_its_picture(raw: Raw, source: str) -> None:
    [sample], quarantined = read(raw, source, RECORDS[source])
    assert not quarantined and sample.dataset == source
    assert (sample.instruction, sample.question) == ("<image>How many circles?", "How many circles?")
    assert (sample.response, sample.rewritten, sample.rejected) == (GOOD, GOOD, BAD)
    assert [image.data for image in sample.images] == [raw.image("a.jpg")]
    assert "chosen" not in sample.meta and "rejected" not in sample.meta
    assert sample.meta.get("score_chosen", 8.0) == 8.0 and sample.meta.get("ref_win_logp", -80.5) == -80.5


def test_rlaif_v_is_parquet_with_pictures_and_a_path_beside_them(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    row = {"ds_name": "RLAIF-V", "image": {"bytes": buffer.getvalue(), "path": None}, "question": "How many circles?",
           "chosen": GOOD, "rejected": BAD, "origin_dataset": "LCS-558K", "origin_split": '{"model": "x"}', "idx": 0,
           "image_path": "lcs/1.jpg"}  # fmt: skip
    rows = [row, {**row, "image": None, "idx": 1}, {**row, "chosen": BAD, "idx": 2}]
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = {name: number if name == "idx" else datasets.Image() if name == "image" else text for name in row}
    path = tmp_path / "RLAIF-V-Dataset_000.parquet"
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(str(path))
    [sample], quarantined = both(PAIR_SOURCES["rlaif_v"].read(SourceOptions(annotations=(path,))))
    assert (sample.instruction, sample.rewritten, sample.rejected) == ("<image>How many circles?", GOOD, BAD)
    assert sample.images[0].data == buffer.getvalue() and sample.meta["record.image_path"] == "lcs/1.jpg"
    assert sample.meta["origin_split"] == '{"model": "x"}' and sample.meta["ds_name"] == "RLAIF-V"
    assert [row.reason for row in quarantined] == ["missing_image", "equal_sides"]


TALK = [user("What is this?"), assistant("A drawing."), user("How many circles?")]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": TALK, "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]},
        {"prompt": TALK, "chosen": [*TALK, assistant(GOOD)], "rejected": [*TALK, assistant(BAD)]},
        {"chosen": [*TALK, assistant(GOOD)], "rejected": [*TALK, assistant(BAD)]},
        {"prompt": json.dumps(TALK), "chosen": json.dumps([assistant(GOOD)]), "rejected": json.dumps([assistant(BAD)])},
        {"prompt": [{"role": "system", "content": "Count."}, *TALK], "chosen": GOOD, "rejected": BAD},
        {"instruction": "How many", "input": "circles?", "history": [["What is this?", "A drawing."]], "chosen": GOOD,
         "rejected": BAD},
    ],
)  # fmt: skip
def test_trl_s_layouts_of_a_conversation_are_one(raw: Raw, record: dict[str, Any]) -> None:
    [sample], quarantined = read(raw, "trl_pairs", record)
    assert not quarantined and not sample.images
    assert [turn.instruction.split() for turn in sample.turns] == [["What", "is", "this?"], ["How", "many", "circles?"]]
    assert [turn.learned for turn in sample.turns] == [False, True]
    assert (sample.turns[0].response, sample.rewritten, sample.rejected) == ("A drawing.", GOOD, BAD)


def test_llama_factory_s_folder_names_its_columns(raw: Raw) -> None:
    raw.image("a.jpg")
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "U", "assistant_tag": "B"}
    columns = {"messages": "talk", "chosen": "better", "rejected": "worse", "images": "shown"}
    info = {"dpo": {"file_name": "dpo.json", "formatting": "sharegpt", "ranking": True, "columns": columns,
                    "tags": tags}}  # fmt: skip
    row = {"talk": [{"who": "U", "says": "<image>How many?"}], "better": {"who": "B", "says": GOOD},
           "worse": {"who": "B", "says": BAD}, "shown": ["a.jpg"]}  # fmt: skip
    raw.json("data/dataset_info.json", info)
    raw.json("data/dpo.json", [row, {**row, "worse": {"who": "U", "says": BAD}}])
    options = SourceOptions(annotations=(raw.root / "data",), images=raw.images)
    [sample], [bad] = both(PAIR_SOURCES["llama_factory_pairs"].read(options))
    assert (sample.instruction, sample.rewritten, sample.rejected) == ("<image>How many?", GOOD, BAD)
    assert bad.reason == "swapped_roles"


def test_each_fault_of_a_pair_has_its_name(raw: Raw) -> None:
    def trl(**changed: Any) -> dict[str, Any]:
        record = RECORDS["trl_pairs"] | changed
        return {name: value for name, value in record.items() if value is not ...}

    faults: list[tuple[str, dict[str, Any]]] = [
        ("equal_sides", trl(rejected=[assistant(f" {GOOD}\n")])),
        ("empty_response", trl(rejected="  ")),
        ("empty_response", trl(chosen=[assistant("")], rejected="no")),
        ("empty_response", trl(rejected=[])),
        ("swapped_roles", trl(chosen=[user(GOOD)])),
        ("swapped_roles", trl(prompt=[*TALK, assistant("Hm.")])),
        ("swapped_roles", trl(prompt=...)),
        ("swapped_sides", trl(score_chosen=2)),
        ("missing_image", trl(images=["b.jpg"])),
        ("missing_image", trl(images=[], prompt="<image>How many?")),
        ("other_language", trl(rejected="图片里有两个圆形和三个绿色的三角形。")),
        ("bad_encoding", trl(chosen="There are two cafÃ©s.")),
        ("bad_encoding", trl(rejected="There are two caf\ufffds.")),
        ("bad_field", trl(rejected="half \ud800 of a pair")),
        ("bad_field", trl(rejected=...)),
        ("bad_field", trl(chosen=7)),
        ("unsupported", trl(chosen=[assistant(GOOD), user("Sure?"), assistant("Yes.")])),
        ("unsafe_name", trl(images=["../../etc/passwd"])),
    ]
    assert reasons(raw, "trl_pairs", *(record for _, record in faults)) == [reason for reason, _ in faults]
    assert reasons(raw, "mllm_dpo", {**RECORDS["mllm_dpo"], "image": None}) == ["missing_image"]
    assert reasons(raw, "trl_pairs", [], "text", None) == ["bad_field"] * 3


def test_a_file_cut_in_the_middle_keeps_what_came_before(raw: Raw) -> None:
    raw.image("a.jpg")
    lines = [json.dumps({**RECORDS["mmpr"], "question": f"<image>{n}?"}) for n in range(3)]
    file = raw.text("pairs.jsonl", "\n".join(lines)[:-20] + "\n{NaN}\n" + lines[0].replace("0?", "3?"))
    samples, quarantined = both(PAIR_SOURCES["mmpr"].read(SourceOptions(annotations=(file,), images=raw.images)))
    assert [sample.question for sample in samples] == ["0?", "1?", "3?"]
    assert Counter(row.reason for row in quarantined) == {"bad_json": 2}


def test_scripts_and_broken_encodings_are_told_by_their_letters() -> None:
    assert script_of("The picture shows two circles.") == "Latin" and script_of("두 개의 동그라미가 있다") == "Hangul"
    assert script_of("図には二つの円があります") == "Hiragana" and script_of("42 + 0.5") == script_of("OK") == ""
    assert script_of("На картинке два круга") == "Cyrillic"
    for fine in ("naïve café", "Ângela está cá", "Ðe", "a – b “c”", "5 °C", "価格は5円", "Âge"):
        assert broken_encoding(fine) == "", fine
    assert broken_encoding("itâ€™s") == "itâ€™s" and broken_encoding("5 Â°C") == "Â°C"


@pytest.mark.parametrize("source", RECORDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_records_cost_only_themselves(raw: Raw, source: str, data: st.DataObject) -> None:
    good = [RECORDS[source] | {"id": f"id-{number}"} for number in range(4)]
    records, places = data.draw(spoiled(good))
    samples, quarantined = read(raw, source, *records)
    found = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(found) == len(set(found)) == 4
    ends = {place.rsplit("[", 1)[1] for place in found[: len(samples)]}
    assert {f"{number}]" for number in range(4) if number not in places} <= ends
    for sample in samples:
        assert sample.rewritten and sample.rejected and sample.rewritten.split() != sample.rejected.split()


def test_a_pair_survives_the_shard(raw: Raw) -> None:
    [sample], _ = read(raw, "trl_pairs", RECORDS["trl_pairs"])
    assert Sample.from_record(json.loads(json.dumps(sample.to_record())), sample.images) == sample


def test_sources_tell_where_their_formats_come_from() -> None:
    told: Mapping[str, Any] = {name: (one.licence, one.evidence, one.use) for name, one in PAIR_SOURCES.items()}
    assert all(all(about) for about in told.values()) and {about[2] for about in told.values()} == {"preference"}
