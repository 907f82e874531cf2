"""Whatever is in the records, each leaves exactly once and nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sources.reading.errors import SourceError
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import JUNK, spoiled

IMAGE = "a.png"
GOOD: dict[str, dict[str, Any]] = {
    "clevr": {"question_index": 0, "question": "Is it?", "answer": "yes", "image_filename": IMAGE, "split": "val"},
    "gqa": {"imageId": "a", "question": "Is it?", "answer": "yes", "fullAnswer": "Yes, it is."},
    "aokvqa": {
        "question_id": 0, "image_id": "a", "question": "Is it?", "rationales": ["It is."], "split": "val",
        "choices": ["no", "yes"], "correct_choice_idx": 1, "direct_answers": ["yes", "no"],
    },
    "textvqa": {"question_id": 0, "image_id": "a", "question": "Is it?", "answers": ["yes", "no", "yes"]},
    "vqa_e": {
        "img_id": "a", "question": "", "answers": ["yes", "no"], "multiple_choice_answer": "yes",
        "explanation": ["It is.", 0.5],
    },
    "scienceqa": {
        "question": "Is it?", "choices": ["no", "yes"], "answer": 1, "hint": "Look.", "image": None, "split": "val",
        "solution": "It is.", "lecture": "",
    },
    "chartqa": {"imgname": IMAGE, "query": "", "label": "yes"},
    "grid_3d": {"img_idx": "a", "question": ["is", "it", "?"], "answer": "yes"},
    "vsr": {"image": IMAGE, "caption": "", "label": 1},
    "nlvr2": {"identifier": "", "sentence": "It is.", "label": "True"},
    "levir_cc": {"filename": 0, "split": "val", "sentences": [{"raw": " gone ."}], "changeflag": 1},
    "spot_the_diff": {"img_id": 0, "sentences": ["it is gone"]},
    "rsicd": {"filename": 0, "split": "val", "sentences": [{"raw": "a field ."}]},
    "image2paragraph": {"image_id": 0, "url": "http://a/VG_100K_2/1.jpg", "paragraph": "A field.  A tree."},
    "image_editing_request": {"img0": IMAGE, "img1": IMAGE, "sents": ["remove it"], "uid": 0},
    "llava": {
        "id": 0, "image": IMAGE,
        "conversations": [{"from": "human", "value": "<image>Is it?"}, {"from": "gpt", "value": "Yes."}],
    },
    "ultrachat": {"id": 0, "data": ["Is it?", "Yes.", "Why?", "So."]},
    "oasst1": {
        "message_tree_id": 0,
        "prompt": {"text": "Is it?", "role": "prompter", "replies": [{"text": "Yes.", "role": "assistant", "rank": 0}]},
    },
    "alpaca_gpt4": {"instruction": "", "input": "Is it?", "output": "Yes."},
    "pf1m": {"input": "", "output": "Yes.", "original": "yes", "reward": 0.5},
}  # fmt: skip
IDS = {
    "clevr": "question_index", "aokvqa": "question_id", "textvqa": "question_id", "spot_the_diff": "img_id",
    "image_editing_request": "uid", "image2paragraph": "image_id", "vqa_e": "question", "chartqa": "query",
    "vsr": "caption", "nlvr2": "identifier",
    "llava": "id", "ultrachat": "id", "oasst1": "message_tree_id", "alpaca_gpt4": "instruction", "pf1m": "input",
}  # fmt: skip


def good_records(source: str) -> list[dict[str, Any]]:
    """Four good records with ids that no junk hits upon."""
    name = "filename" if source in ("levir_cc", "rsicd") else IDS.get(source)
    return [GOOD[source] | ({name: f"id-{n}" + ".png" * (name == "filename")} if name else {}) for n in range(4)]


def wrapped(source: str, records: list[Any]) -> Any:
    if source in ("gqa", "scienceqa"):
        return {f"id-{number}": record for number, record in enumerate(records)}
    part = {"clevr": "questions", "textvqa": "data", "levir_cc": "images", "rsicd": "images"}.get(source)
    return {part: records} if part else records


@pytest.mark.parametrize("source", GOOD)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_records_cost_only_themselves(raw: Raw, source: str, data: st.DataObject) -> None:
    for name in ("a.png", "a.jpg", "00000000000a.jpg"):
        raw.image(name)
    for number in range(4):
        for name in ("id-img0.png", "id-img1.png"):
            raw.image(name)
        stem = f"id-{number}"
        for name in (f"{stem}.png", f"{stem}_2.png", f"val/A/{stem}.png", f"val/B/{stem}.png", f"VG_100K_2/{stem}.jpg"):
            raw.image(name)
    records, places = data.draw(spoiled(good_records(source)))
    if source in ("vsr", "nlvr2"):
        file = raw.text("file.json", "\n".join(map(json.dumps, records)))
    else:
        file = raw.json("file.json", wrapped(source, records))
    samples, quarantined = raw.read(source, file, split="")
    found = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(found) == len(set(found)) == 4
    ends = {place.rsplit("[", 1)[1] for place in found[: len(samples)]}
    assert {f"{number}]" for number in range(4) if number not in places} <= ends


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    external=spoiled([{"classname": "cat", "def_wiki": "A pet.", "path_wn": "", "def_wn": ""}]),
    gpt3=spoiled([{"classname": "cat", "gpt3": [" It purrs."]}]),
    templates=st.lists(JUNK, max_size=2),
    classes=st.lists(JUNK, max_size=2),
)
def test_spoiled_knowledge_costs_only_itself(raw: Raw, external: Any, gpt3: Any, templates: Any, classes: Any) -> None:
    raw.image("pets-cls0-idx1-cat.png")
    files = [
        raw.json("class_map.json", {"pets": ["cat", *classes]}),
        raw.json("template_map.json", {"pets": ["a {}.", *templates]}),
        raw.json("pets_knowledge.tsv", external[0]),
        raw.json("GPT3_pets.tsv", gpt3[0]),
    ]
    samples, _ = raw.read("elevater_ic", *files)
    lines = samples[0].response.splitlines()
    assert external[1] or "A pet." in lines
    assert gpt3[1] or "It purrs." in lines


TOKENS = st.sampled_from(["1", "2.5", "9e99", "-3", "nan", "ship", "large-vehicle", "0", "gsd:", "\u2028", "x" * 300])
CORNERS = st.lists(st.integers(-9, 99).map(str), min_size=8, max_size=8)
LINE = CORNERS.map(lambda corners: " ".join([*corners, "ship", "0"]))
BAD_LINE = st.lists(TOKENS, min_size=8, max_size=11).map(" ".join) | st.text(max_size=8)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(LINE, BAD_LINE), max_size=2))
def test_each_label_file_leaves_once(raw: Raw, lines: list[str]) -> None:
    raw.image("a.png")
    file = raw.root / "a.txt"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    samples, quarantined = raw.read("dota", file)
    assert len(samples) + len(quarantined) == 1


TAGS = ("annotation", "object", "name", "bndbox", "robndbox", "xmin", "ymin", "xmax", "ymax", "size", "width", "height")
XML = st.recursive(
    st.sampled_from(["1", "5", "50", "ship", "", "&lt;", "&boom;", "\x00", "nan"]),
    lambda inner: st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=4).map("".join)).map(
        lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>"
    ),
    max_leaves=12,
)
BOX = st.tuples(*[st.integers(-9, 99)] * 4).map(
    lambda box: (
        "<object><name>ship</name><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
    )
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(things=st.lists(st.one_of(BOX, XML), max_size=2))
def test_each_xml_file_leaves_once(raw: Raw, things: list[str]) -> None:
    raw.image("a.png")
    samples, quarantined = raw.read("dior", raw.text("a.xml", f"<annotation>{''.join(things)}</annotation>"))
    assert len(samples) + len(quarantined) == 1


JSON_SOURCES = [
    *GOOD, "coco_captions", "vqa_v2", "ocr_vqa", "iconqa", "ai2d", "sharegpt", "gpteacher", "instructionwild",
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JUNK)
@pytest.mark.parametrize("source", JSON_SOURCES)
def test_a_whole_file_of_junk_is_rows_or_one_clear_line(raw: Raw, source: str, content: Any) -> None:
    try:
        samples, _ = raw.read(source, raw.json("file.json", content))
    except SourceError as error:
        assert "file.json" in str(error) or source in str(error)
        assert "\n" not in str(error)
    else:
        assert samples == []
