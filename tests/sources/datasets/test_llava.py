"""LLaVA's format: marks stand for images, in order; the turns as in other conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Image
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.sources.datasets.llava import strip_around_marks
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import content_hash
from polite_flamingo.sources.records import source as base
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.json_exports import export_images, exporting_records, records_of
from polite_flamingo.storage.location import location
from tests.support.raw_dataset import SHARED, Raw, both
from tests.support.record_strategies import JUNK
from tests.support.scored import world

H, G = "human", "gpt"


def chat(*said: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {**more, "conversations": [{"from": speaker, "value": value} for speaker, value in said]}


def one(raw: Raw, record: Any, source: str = "llava", **extra: str) -> Any:
    samples, quarantined = raw.read(source, raw.json("chats.json", [record]), split="", **extra)
    return (samples + quarantined)[0]


def pairs(sample: Any) -> list[tuple[str, str]]:
    return [(turn.instruction, turn.response) for turn in sample.turns]


@pytest.mark.parametrize(
    ("said", "instruction"),
    [
        ("<image>\nWhat is it?", "<image>What is it?"),
        ("What is it?\n<image>", "What is it?<image>"),
        (" <image> \n\n What\nis it? ", "<image>What\nis it?"),
        ("<image>", "<image>"),
        ("On the left <image>, why?", "On the left <image>, why?"),
        ("What is it?", "<image>What is it?"),
    ],
)
def test_the_mark_stays_where_it_is_without_its_line_break(raw: Raw, said: str, instruction: str) -> None:
    data = raw.image("a.jpg")
    record = chat((H, said), (G, "A bus.\nA box: [0.1, 0.2, 0.3, 0.4]"), (H, "Red?"), (G, "Yes"), id="7", image="a.jpg")
    sample = one(raw, record)
    assert pairs(sample) == [(instruction, "A bus.\nA box: [0.1, 0.2, 0.3, 0.4]"), ("Red?", "Yes")]
    assert sample.key == f"llava/train/7-{content_hash(record)}"
    assert (sample.task, [image.data for image in sample.images]) == ("dialogue", [data])
    assert sample.meta["images"] == ["a.jpg"]
    assert sample.meta.get("marks_added") == (None if "<image>" in said else 1)


def test_several_images_anywhere_in_their_order(raw: Raw) -> None:
    red, blue = raw.image("r.png", colour="red"), raw.image("images/b  b.png", colour="blue")
    said = [(H, "<image>\n<image>\nCompare."), (G, "See <image>."), (H, "And now?\n<image>"), (G, "Same.")]
    sample = one(raw, chat(*said, images=["r.png", "b  b.png", "r.png"], image="r.png"))
    assert pairs(sample) == [("<image><image>Compare.", "See (image)."), ("And now?<image>", "Same.")]
    assert [image.data for image in sample.images] == [red, blue, red]
    assert sample.meta["unmarked"] == 1
    assert [image.data for image in one(raw, chat(*said, image=["r.png"] * 3)).images] == [red] * 3
    assert one(raw, chat((H, "Two?"), (G, "Yes <image>"), image=["r.png"] * 2)).instruction == "<image><image>Two?"


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": ""}, {"image": []}, {"images": [], "image": None}])
def test_a_record_without_an_image_is_text_and_needs_no_folder(raw: Raw, image: Any) -> None:
    file = raw.json("c.json", [chat((H, "Why?"), (G, "So."), **image)])
    samples, _ = both(SOURCES["llava"].read(SourceOptions(annotations=(file,))))
    assert [(sample.instruction, sample.response, sample.images) for sample in samples] == [("Why?", "So.", ())]


@pytest.mark.parametrize(
    ("record", "reason", "says"),
    [
        (chat((H, "<image>\na"), (G, "b")), "missing_image", "1 <image> marks in what the human says, 0 images"),
        (chat((H, "<image>a<image>"), (G, "b"), image="a.jpg"), "missing_image", "2 <image> marks"),
        (chat((H, "a"), (G, "b"), (H, "<image>"), image="a.jpg"), "missing_image", "0 <image> marks"),
        (chat((H, "a"), (G, "b"), image="nowhere.jpg"), "missing_image", "none of nowhere.jpg"),
        (chat((H, "a"), (G, "b"), image="http://example.org/a.jpg"), "missing_image", "none of http"),
        (chat((H, "a"), (G, "b"), image="../chats.json"), "unsafe_name", "leads out"),
        (chat((H, "a"), (G, "b"), image="/etc/passwd"), "unsafe_name", "leads out"),
        (chat((H, "a"), (G, "b"), image="a\0.jpg"), "unsafe_name", "leads out"),
        (chat((H, "a"), (G, "b"), image="empty.jpg"), "empty_image", "empty.jpg"),
        (chat((H, "a"), (G, "b"), image="broken.jpg"), "corrupt_image", "broken.jpg"),
        (chat((H, "a"), (G, "b"), image=3), "bad_field", "image name in field 'image'"),
        (chat((H, "a"), (G, "b"), images=[{"bytes": ""}]), "bad_field", "image name in field 'images'"),
        (chat((H, "a"), (G, "b"), image=float("nan")), "bad_field", "image name in field 'image'"),
        (chat((H, "<image>"), (G, ""), image="a.jpg"), "empty_response", "the assistant says nothing"),
        (chat((G, "<image>"), image="a.jpg"), "missing_annotation", "no human message is answered"),
        ({"image": "a.jpg"}, "bad_field", "'conversations' is missing"),
        ([], "bad_field", "must be an object"),
    ],
)
def test_bad_records_are_quarantined(raw: Raw, record: Any, reason: str, says: str) -> None:
    raw.image("a.jpg")
    (raw.images / "empty.jpg").write_bytes(b"")
    (raw.images / "broken.jpg").write_bytes(b"no picture at all")
    row = one(raw, record)
    assert (row.payload, row.reason) == ("chats.json#conversations[0]", reason)
    assert says in row.detail


@pytest.mark.parametrize(
    "name",
    ["000000033471.jpg", "train2017/000000033471.jpg", "COCO_train2014_000000033471.jpg",
     "train2014/COCO_train2014_000000033471.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("source", ["llava_conversation", "llava_detail", "llava_reasoning"])
def test_llava_instruct_s_images_are_found_under_the_names_of_coco(raw: Raw, source: str, name: str) -> None:
    raw.image(name)
    record = chat((H, "a\n<image>"), (G, "b"), id="000000033471", image="000000033471.jpg")
    sample = one(raw, record, source)
    assert (sample.key, sample.dataset) == (f"{source}/train/000000033471-{content_hash(record)}", source)
    assert (sample.instruction, sample.task) == ("a<image>", "dialogue")


def test_the_user_may_say_what_the_own_data_is(raw: Raw) -> None:
    raw.image("a.jpg")
    record = chat((H, "a"), (G, "b"), image="a.jpg")
    assert one(raw, record, task="vqa").task == "vqa"
    for records in ([record], []):  # also where there is nothing to build
        with pytest.raises(SourceError, match="extra task='quiz': it must be one of dialogue, vqa"):
            raw.read("llava", raw.json("c.json", records), task="quiz")


def test_a_url_is_fetched_only_from_a_host_that_is_named(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = raw.image("a.jpg"), []

    def fetch(url: object, hosts: Any) -> Image:
        asked.append((url, hosts))
        return Image(extension="jpg", data=data)

    monkeypatch.setattr(base, "fetch", fetch)
    url = "https://pictures.example/a.jpg"
    file = raw.json("c.json", [chat((H, "a"), (G, "b"), image=url), chat((H, "a"), (G, "b"), image="b.jpg")])
    for hosts, count in ((), 0), (("pictures.example",), 1):
        options = SourceOptions(annotations=(file,), images=raw.images, download_from=hosts)
        samples, quarantined = both(SOURCES["llava"].read(options))
        assert [row.reason for row in quarantined] == ["missing_image"] * (2 - count)
        assert [sample.images[0].data for sample in samples] == [data] * count
        assert asked == [(url, hosts)] * count


def test_an_id_may_repeat_a_record_may_not(raw: Raw) -> None:
    raw.image("a.jpg")
    records = [chat((H, "a"), (G, answer), id="7", image="a.jpg") for answer in ("b", "c", "b")]
    lines = raw.text("l.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    samples, quarantined = raw.read("llava", lines)
    assert [sample.response for sample in samples] == ["b", "c"]
    assert [(row.payload, row.reason) for row in quarantined] == [("l.jsonl#conversations[2]", "duplicate_key")]


def test_what_a_build_exports_comes_back(tmp_path: Path) -> None:
    kept = select_shard(world(150), shard="s", thresholds=Thresholds()).kept
    export_images(kept, out=location(tmp_path), name="s")
    with exporting_records(location(tmp_path)) as add:
        add(records_of(kept, "s"))
    options = SourceOptions(annotations=(tmp_path / "llava.json",), images=tmp_path)
    samples, quarantined = both(SOURCES["llava"].read(options))
    assert quarantined == [] and len(samples) > 50
    assert [(s.instruction, s.response, s.images) for s in samples] == [
        (sample.instruction, (sample.rewritten or "").strip(), sample.images) for sample in kept
    ]
    assert {len(sample.images) for sample in samples} == {1, 2}


TEXT = st.lists(st.sampled_from(["<image>", "\n", " ", "a", "<im", "age>"]), max_size=6).map("".join)


@given(text=TEXT)
def test_only_white_space_beside_marks_goes(text: str) -> None:
    assert "".join(strip_around_marks(text).split()) == "".join(text.split())
    assert strip_around_marks(strip_around_marks(text)) == strip_around_marks(text) == strip_around_marks(text).strip()


TURN = st.fixed_dictionaries(
    {"from": st.sampled_from([H, G]) | JUNK, "value": TEXT | st.text(max_size=4) | JUNK}, optional={"more": JUNK}
)
NAMES = st.sampled_from(["a.jpg", "../a.jpg", "b.jpg", ""]) | JUNK


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(TURN, min_size=2, max_size=6) | st.lists(TURN | JUNK, max_size=4) | JUNK,
    more=st.fixed_dictionaries(
        {}, optional={"image": NAMES | st.lists(NAMES, max_size=3), "images": st.lists(NAMES, max_size=3), "id": JUNK}
    ),
)
@pytest.mark.parametrize("source", ["llava", "llava_detail"])
def test_any_record_leaves_once_with_as_many_images_as_marks(raw: Raw, source: str, turns: Any, more: Any) -> None:
    raw.image("a.jpg")
    row = one(raw, {"conversations": turns, **more}, source)  # a sample was validated: marks and images agree
    if hasattr(row, "turns"):
        assert len(row.images) == len(row.meta.get("images", [])) and "<image>" not in row.turns[0].response


FILES = {
    name: f"llava_instruct/{file}"
    for name, file in {
        "pretraining": "blip_laion_cc_sbu_2k.head30.json", "science": "llava_test_CQM-A.head10.json",
        "instruct": "llava_instruct_150k.first2.TRANSCRIBED.json", "boxes": "caps_boxes_coco2014_val_80.head15.jsonl",
        "answers": "coco2014_val_gpt4_qa_30x3.head45.jsonl",
    }.items()
}  # fmt: skip


def test_real_llava_instruct(real: Any) -> None:
    pictures = ("train2017/000000033471.jpg", "COCO_train2014_000000052846.jpg")
    samples, quarantined = real("llava_conversation", "", FILES["instruct"], pictures=pictures)
    assert quarantined == []
    assert [(sample.key, pairs(sample)) for sample in samples] == [
        (
            "llava_conversation/train/000000033471-cf57dfde571dd068",
            [
                ("<image>What are the colors of the bus in the image?", "The bus in the image is white and red."),
                (
                    "What feature can be seen on the back of the bus?",
                    "The back of the bus features an advertisement.",
                ),
                (
                    "Is the bus driving down the street or pulled off to the side?",
                    "The bus is driving down the street, which is crowded with people and other vehicles.",
                ),
            ],
        ),
        (
            "llava_conversation/train/000000052846-79e3ce15d7acc557",
            [
                (
                    "<image>Where is the cat positioned in the image?",
                    "The cat is positioned on top of the back of the couch in the living room.",
                )
            ],
        ),
    ]
    assert [len(sample.images) for sample in samples] == [1, 1]


def test_real_llava_pretraining(real: Any) -> None:
    content = json.loads((SHARED / "samples" / FILES["pretraining"]).read_text())
    samples, quarantined = real("llava", "", FILES["pretraining"], pictures=[record["image"] for record in content])
    assert quarantined == [] and len(samples) == 30
    assert [(sample.instruction, sample.response) for sample in samples[:2]] == [
        ("<image>Provide a brief description of the given image.", "the bunk room"),
        (
            "What is in the photo?<image>",
            "a garden with a clipped hedge and a large stone fountain in front of it",
        ),
    ]
    assert samples[0].key == "llava/train/000019465-b23dff665eab685a"
    assert samples[0].meta["images"] == ["00001/000019465.jpg"]


def test_real_llava_with_records_of_text(real: Any) -> None:
    samples, quarantined = real("llava", "", FILES["science"], pictures=["5/image.png", "11/image.png"])
    assert [(len(sample.images), sample.response) for sample in samples[:3]] == [(0, "B"), (1, "B"), (1, "B")]
    assert samples[2].instruction == (
        "<image>What is the name of the colony shown?\nA. Maryland\nB. New Hampshire\nC. Rhode Island\nD. Vermont"
    )
    assert (len(samples), [row.reason for row in quarantined]) == (8, ["missing_image"] * 2)


def test_real_files_beside_llava_s(real: Any) -> None:
    samples, quarantined = real("llava", "", FILES["boxes"])
    assert samples == []
    assert [(row.reason, row.detail) for row in quarantined] == [("bad_field", "field 'conversations' is missing")] * 15
    content = [json.loads(line) for line in (SHARED / "samples" / FILES["answers"]).read_text().splitlines()]
    samples, quarantined = real("llava", "", FILES["answers"], pictures=[record["image"] for record in content])
    assert quarantined == [] and [pairs(sample) for sample in samples] == [
        [(f"<image>{record['instruction']}", record["output"])] for record in content
    ]
    assert samples[0].meta["type"] == "conv"
