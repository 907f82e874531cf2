"""Fields and placeholders that change what a record means: honoured, or quarantined by name, or kept and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.field_meanings import FIELDS, IMAGE_NAMES
from polite_flamingo.sources.records.media_fields import media_of_field
from polite_flamingo.sources.records.placeholder_table import PLACEHOLDERS
from polite_flamingo.sources.records.source import SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import JUNK


def read(raw: Raw, record: Any, source: str = "llava") -> tuple[Any, dict[str, int]]:
    """The row of one record, and what was noted."""
    file = record if isinstance(record, Path) else raw.json("r.json", [record])
    options = SourceOptions(annotations=(file,), images=raw.images)
    scratch, found = Scratch(), SOURCES[source]
    rows = [
        row if isinstance(row, Quarantined) else make_sample(found, row, found.context(options))
        for row in keyed_records(found, options, scratch)
    ]
    assert len(rows) == 1
    return rows[0], scratch.notes


def talk(*said: Any, **more: Any) -> dict[str, Any]:
    """Messages, the user's and the assistant's in turn: a text, or (a text, fields)."""
    messages = []
    for number, one in enumerate(said):
        text, fields = one if isinstance(one, tuple) else (one, {})
        messages.append({"role": "assistant" if number % 2 else "user", "content": text, **fields})
    return {"messages": messages, **more}


def told(row: Any) -> list[tuple[str, str]]:
    assert isinstance(row, Sample), row
    return [(turn.instruction, turn.response) for turn in row.turns]


@pytest.fixture
def pictures(raw: Raw) -> Raw:
    raw.image("a.jpg", 32, 24)
    raw.image("b.jpg", 64, 48)
    return raw


@pytest.mark.parametrize("source", ["llava", "sharegpt"])
@pytest.mark.parametrize(
    ("record", "says"),
    [
        (talk("<video>\nWhat happens?", "A dog runs.", video="v.mp4"), "field 'video' holds a video"),
        (talk("What happens?", "A dog runs.", videos=["v.mp4"]), "field 'videos' holds a video"),
        (talk("What?", "A dog.", videoPath="v"), "field 'videoPath' holds a video"),
        (talk("What?", "A dog.", clip="v.webm"), "field 'clip' holds a video"),
        (talk("What?", "A dog.", is_video=True), "field 'is_video' holds a video"),
        (talk("What?", "A dog.", modality="video"), "field 'modality' holds a video"),
        (talk("Transcribe.", "Hello.", audios=["s.wav"]), "field 'audios' holds audio"),
        (talk("Transcribe.", ("Hello.", {"audio": {"id": "x"}})), "field 'audio' of messages[1] holds audio"),
        (talk("<video>\nWhat happens?", "A dog runs."), "'<video>' in a text"),
        (talk("<|audio_1|> Transcribe.", "Hello."), "'<|audio_1|>' in a text"),
        (talk("<audio>s.wav</audio> Transcribe.", "Hello."), "'<audio>' in a text"),
        (talk([{"type": "video", "video": "v.mp4"}], "A dog."), "of type 'video'"),
        (talk([{"type": "input_audio", "input_audio": {}}], "A dog."), "of type 'input_audio'"),
        (talk([{"type": "file", "file": {}}], "A dog."), "of type 'file'"),
        (talk("a", "b", tools=[{"type": "function"}]), "field 'tools' holds calls of tools"),
        (talk("a", ("b", {"tool_calls": [{"id": "1"}]})), "field 'tool_calls' of messages[1]"),
        (talk("a", "b", input_ids=[1, 2]), "field 'input_ids' holds tokens"),
        (talk("a", ("b", {"train_detail": [{"begin_offset": 0}]})), "field 'train_detail' of messages[1]"),
        (talk("a", ("b", {"weight": 0.5})), "field 'weight' of messages[1] is 0.5"),
        (talk("a", "b", "c", "d", loss_mask=[0, 1, 1]), "of 3 turns whether they are learned; it has 2 answers"),
        (talk("a", "b", mask="Assistant"), "field 'mask': the human's words would be learned"),
        (talk("a", ("b", {"weight": 0}), ("c", {}), ("d", {"weight": 0}), "e", "f")
         | {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                         {"role": "assistant", "content": "c"}]}, "parts to learn and parts not to learn"),
        (talk("<cot-process>", "b"), "'<cot-process>' in a text"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_quarantined_by_name(pictures: Raw, record: Any, says: str, source: str) -> None:
    row, notes = read(pictures, record, source)
    assert isinstance(row, Quarantined) and (row.reason, notes) == ("unsupported", {})
    assert says in row.detail


@pytest.mark.parametrize("source", ["llava", "sharegpt"])
@pytest.mark.parametrize(
    ("record", "says"),
    [
        (talk("a", "b", kto_tag=False), "field 'kto_tag'"),
        (talk("a", "b", label=False), "field 'label'"),
        (talk("a", "b", isCorrect=False), "field 'isCorrect'"),
        (talk("a", "b", is_correct=0), "field 'is_correct'"),
        (talk("a", "b", toxic=True), "field 'toxic'"),
        (talk("a", "b", rejected=True), "field 'rejected'"),
        (talk("a", "b", feedback="thumbs-down"), "field 'feedback'"),
        (talk("a", "b", verdict="incorrect"), "field 'verdict'"),
        (talk("a", "b", vote=-1), "field 'vote'"),
        (talk("a", "b", finish_reason="length"), "field 'finish_reason'"),
        (talk("a", "b", skip="true"), "field 'skip'"),
        (talk("a", ("b", {"deleted": True}), "c", "d"), "field 'deleted' of messages[1]"),
        (talk("a", "b", train=False), "field 'train'"),
        (talk("a", ("b", {"weight": 0})), "field 'weight' of messages[1]"),
        (talk("a", ("b", {"mask": True}), "c", ("d", {"mask": 1})), "field 'mask' of messages[1]"),
    ],
)
def test_what_is_called_bad_is_not_taught(pictures: Raw, record: Any, says: str, source: str) -> None:
    row, notes = read(pictures, record, source)
    assert isinstance(row, Quarantined) and (row.reason, notes) == ("excluded", {})
    assert says in row.detail


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0}, {"weight": "0"}, {"train": False}, {"training": 0}, {"loss": False}, {"mask": True}, {"mask": 1},
        {"learn": "no"}, {"ignore": True}, {"is_correct": False}, {"flagged": True}, {"ignore_loss": 1},
    ],
)  # fmt: skip
def test_an_answer_that_must_not_be_learned_stays_as_context(pictures: Raw, fields: Any) -> None:
    good = {name: not value if isinstance(value, bool) else 1 - int(value == 1) for name, value in fields.items()
            if value not in ("0", "no")}  # fmt: skip
    row, notes = read(pictures, talk("a", ("b", fields), "c", ("d", good)), "sharegpt")
    assert told(row) == [("a", "b"), ("c", "d")]
    assert [turn.learned for turn in row.turns] == [False, True]
    assert [turn.get("learned") for turn in row.to_record()["turns"]] == [False, None]
    assert notes == {"answers that may not be learned stay as context": 1}


def test_lists_of_masks_and_masks_of_the_human(pictures: Raw) -> None:
    for flags in ([0, 1], [False, False, False, True], [1, 0, 1, 1]):
        row, _ = read(pictures, talk("a", "b", "c", "d", assistant_masks=flags), "sharegpt")
        assert [turn.learned for turn in row.turns] == [False, True]
    orca = talk(("a", {"weight": 0.0}), ("b", {"weight": 1.0}), mask="User")  # SlimOrca, NeMo
    row, notes = read(pictures, orca, "sharegpt")
    assert [turn.learned for turn in row.turns] == [True] and notes == {}
    row, notes = read(pictures, talk(("a", {"train": True}), "b"), "sharegpt")
    assert list(notes) == ["human messages are never learned, whatever their fields say"]


def test_null_and_empty_say_nothing(pictures: Raw) -> None:
    nothing = {"video": None, "videos": [], "audios": "", "tools": "[]", "tool_calls": None, "kto_tag": None, "x": None}
    for source in ("llava", "sharegpt"):
        row, notes = read(pictures, talk("a", ("b", {"tool_calls": [], "audio": None}), **nothing), source)
        assert told(row) == [("a", "b")] and notes == {} and set(row.meta) == {"source"}


def test_other_fields_are_kept_and_said(pictures: Raw) -> None:
    record = talk("<image>a", ("b", {"reasoning_content": "hm", "name": "Bo"}), image="a.jpg", score=0.2, label=3,
                  source="coco", foo={"x": [1, float("nan")]}, rejected_response="no", system="Be brief.")  # fmt: skip
    row, notes = read(pictures, record)
    assert told(row) == [("<image>a", "b")]
    assert row.meta == {
        "images": ["a.jpg"], "source": "r.json#conversations[0]", "system": "Be brief.", "score": 0.2, "label": 3,
        "record.source": "coco", "foo": {"x": [1, None]}, "rejected_response": "no", "messages[1].name": "Bo",
        "messages[1].reasoning_content": "hm",
    }  # fmt: skip
    assert set(notes.values()) == {1} and len(notes) == 8
    assert "field 'foo' is not known; kept in meta" in notes
    assert any(note.startswith("field 'rejected_response': the answer that was not preferred") for note in notes)


PREFERRED = [
    {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}},
    {"prompt": "a", "chosen": "b"},
    {"prompt": "a", "completion": "b"},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"chosen": talk("a", "b")["messages"]},
    talk("a", "b") | {"prompt": "a", "chosen": talk("a", "b")["messages"]},
    talk("a", "b") | {"chosen": "b"},
    {"messages": json.dumps(talk("a", "b")["messages"])},
    {"texts": [{"user": "a", "assistant": "b"}]},
    {"conversation": [{"human": "a", "assistant": "b"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "refusal": "b"}]},
    {"messages": [{"role": "developer", "content": "s"}, *talk("a", "b")["messages"]]},
]


@pytest.mark.parametrize("record", PREFERRED)
@pytest.mark.parametrize("source", ["llava", "sharegpt"])
def test_the_layouts_that_people_have(pictures: Raw, record: Any, source: str) -> None:
    row, _ = read(pictures, record | {"rejected": "z"}, source)
    assert told(row) == [("a", "b")] and row.meta["rejected"] == "z"
    row, _ = read(pictures, talk("a", "b", chosen="c"), source)
    assert "'chosen' is another answer" in row.detail


@pytest.mark.parametrize(
    ("asked", "names", "shown", "order"),
    [
        ("<|vision_start|><|image_pad|><|image_pad|><|vision_end|>What?", ["a.jpg"], "<image>What?", "a"),
        ("<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat?", ["a.jpg"], "<image>What?", "a"),
        ("<Img><ImageHere></Img> What?", ["a.jpg"], "<image>What?", "a"),
        ("(<image>./</image>)\nWhat?", ["a.jpg"], "<image>What?", "a"),
        ("<start_of_image>What?", ["a.jpg"], "<image>What?", "a"),
        ("<|image|>What?<|image|>", ["a.jpg", "b.jpg"], "<image>What?<image>", "ab"),
        ("See <image_2>, then <image_1>, then <image_2> again.", ["a.jpg", "b.jpg"],
         "See <image>, then <image>, then <image> again.", "bab"),
        ("<|image_1|>What?", ["a.jpg"], "<image>What?", "a"),
        ("<image_0> and <image_1>?", ["a.jpg", "b.jpg"], "<image>and <image>?", "ab"),
        ("<image_01> or <image_00>?", {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}, "<image>or <image>?", "ba"),
        ("Picture 1: <img>b.jpg</img>\nWhat?", [], "Picture 1: <image>\nWhat?", "b"),
        ("<img>b.jpg</img> or <image>?", ["a.jpg"], "<image>or <image>?", "ba"),
        ("Is ![x](b.jpg) or ![y](a.jpg) better?", ["a.jpg", "b.jpg"], "Is <image> or <image> better?", "ba"),
        ("[IMG]What?", ["a.jpg"], "<image>What?", "a"),
    ],
)  # fmt: skip
def test_places_of_pictures_by_other_names(pictures: Raw, asked: str, names: Any, shown: str, order: str) -> None:
    row, _ = read(pictures, talk(asked, "So.", image=names))
    assert told(row) == [(shown, "So.")]
    assert row.meta["images"] == [f"{letter}.jpg" for letter in order]
    assert [image.data for image in row.images] == [pictures_of(pictures, letter) for letter in order]


def pictures_of(raw: Raw, letter: str) -> bytes:
    return (raw.images / f"{letter}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("asked", "names", "reason"),
    [
        ("<image_1>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<image_3>", ["a.jpg"], "missing_image"),
        ("<image_1><image>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<|image|>", ["a.jpg", "b.jpg"], "missing_image"),
        ("<|image_pad|>What?", [], "unsupported"),
        ("<image-x>What?", ["a.jpg"], "unsupported"),
        ("<image>What?", ["a.mp4"], "unsupported"),
        ("What is <region1>?", ["a.jpg"], "unsupported"),
        ("<grounding>What?", ["a.jpg"], "unsupported"),
        ("<bbox>", ["a.jpg"], "unsupported"),
        ("Where? <box>(1,2)(3,4),(5,6)</box>", ["a.jpg"], "unsupported"),
    ],
)
def test_places_that_do_not_fit_are_quarantined(pictures: Raw, asked: str, names: Any, reason: str) -> None:
    row, _ = read(pictures, talk(asked, "So.", images=names))
    assert isinstance(row, Quarantined) and row.reason == reason, row


def test_a_picture_that_only_a_text_source_sees_or_an_unknown_field_names(pictures: Raw) -> None:
    row, _ = read(pictures, talk("<img>a.jpg</img>What?", "So."), "sharegpt")
    assert "with --source llava" in row.detail
    row, _ = read(pictures, talk("What?", "So.", thumbnail="a.jpg"))
    assert isinstance(row, Quarantined) and "'thumbnail' may name a picture" in row.detail
    row, _ = read(pictures, talk("<image>What?", "So.", image_path="a.jpg", thumbnail="b.jpg"))
    assert len(row.images) == 1 and row.meta["thumbnail"] == "b.jpg"
    row, _ = read(pictures, talk("What?", "So.", image="a.jpg", images=["b.jpg"]))
    assert "'images' and 'image' name different pictures" in row.detail


def test_words_of_html_and_code_are_text(pictures: Raw) -> None:
    for asked in (
        "How do I use <video> in HTML?",
        "What does `<audio>` do?",
        "Fix <div><video></div>",
        "Is <picture> old?",
    ):
        row, _ = read(pictures, talk(asked, "Use <video controls> and <|image_pad|>."), "sharegpt")
        assert told(row) == [(asked, "Use <video controls> and <|image_pad|>.")]
    row, _ = read(pictures, talk("<image>Write it in HTML.", "<picture><video></video></picture>", image="a.jpg"))
    assert isinstance(row, Sample)
    row, notes = read(pictures, talk("Why?", "<think>hm</think>So."), "sharegpt")
    assert told(row) == [("Why?", "<think>hm</think>So.")] and "taught unchanged" in next(iter(notes))


@pytest.mark.parametrize(
    ("asked", "said", "objects", "expected"),
    [
        ("Find <ref-object>.", "<bbox>", {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]},
         ("Find dog.", "[0.031, 0.083, 0.094, 0.167]")),
        ("What?", "<ref-object><bbox> and <ref-object> <bbox><bbox>.",
         {"ref": ["a dog", "cats"], "bbox": [[0, 0, 16, 12], [16, 12, 40, 24], [0, 0, 32, 24]]},
         ("What?", "a dog: [0.000, 0.000, 0.500, 0.500] and cats: [0.500, 0.500, 1.000, 1.000], "
                   "[0.000, 0.000, 1.000, 1.000].")),
        ("Open it", "click('<bbox>')", {"ref": [], "bbox": [[16, 12]]}, ("Open it", "click('[0.500, 0.500]')")),
        ("Find <bbox>", "it", {"bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"},
         ("Find [0.100, 0.200, 0.300, 0.400]", "it")),
        ("Find <bbox>", "it", {"bbox": [[100, 200, 300, 400]], "bbox_type": "norm1000"},
         ("Find [0.100, 0.200, 0.300, 0.400]", "it")),
        ("Who is <ref-object>?", "<bbox>", '[{"caption": "guy", "bbox": [16, 12, 32, 24], "image": 0}]',
         ("Who is guy?", "[0.500, 0.500, 1.000, 1.000]")),
        ("Find <ref>the dog</ref>", "<ref>the dog</ref><box>(100,200),(300,400)</box>", None,
         ("Find the dog", "the dog: [0.100, 0.200, 0.300, 0.400]")),
        ("Find", "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)"
         "<|box_end|>", None, ("Find", "dog: [0.001, 0.002, 0.003, 0.004], [0.005, 0.006, 0.007, 0.008]")),
        ("Find", "<ref>dog</ref><box>[[10, 20, 30, 40], [1,2,3,4]]</box>", None,
         ("Find", "dog: [0.010, 0.020, 0.030, 0.040], [0.001, 0.002, 0.003, 0.004]")),
    ],
)  # fmt: skip
def test_objects_and_boxes_become_words(pictures: Raw, asked: str, said: str, objects: Any, expected: Any) -> None:
    row, _ = read(pictures, talk(f"<image>{asked}", said, image="a.jpg", objects=objects))
    assert told(row) == [(f"<image>{expected[0]}", expected[1])]


def test_boxes_are_of_the_picture_that_they_name(pictures: Raw) -> None:
    objects = {"bbox": [[32, 24, 64, 48], [16, 12, 32, 24]], "image_id": [1, 0]}
    row, _ = read(
        pictures, talk("<image_2> and <image_1>", "<bbox>, <bbox>", images=["a.jpg", "b.jpg"], objects=objects)
    )
    assert told(row)[0][1] == "[0.500, 0.500, 1.000, 1.000], [0.500, 0.500, 1.000, 1.000]"


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}, "1 in 'ref'"),
        ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "1 <bbox> in the texts, 2 in 'bbox'"),
        ({"bbox": [[40, 2, 50, 4]]}, "outside of its picture"),
        ({"bbox": [[3, 4, 1, 2]]}, "has no area"),
        ({"bbox": [[1, 2, 3]]}, "must be [x1, y1, x2, y2]"),
        ({"bbox": [["a", 2, 3, 4]]}, "must be a number"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [1]}, "in picture 1, the record has 1"),
        ({"bbox": [[1, 2, 3, 4]], "image_id": [True]}, "numbers of pictures"),
        ({"bbox": [[1, 2, 3, 4]], "bbox_type": "yolo"}, "'yolo'"),
        ("{", "not JSON"),
        ([3], "must be an object"),
    ],
)
def test_objects_that_do_not_fit_are_quarantined(pictures: Raw, objects: Any, says: str) -> None:
    row, _ = read(pictures, talk("<image>Find it.", "<bbox>", image="a.jpg", objects=objects))
    assert isinstance(row, Quarantined) and says in row.detail, row


def test_messages_of_parts(pictures: Raw) -> None:
    image, text = {"type": "image", "image": "b.jpg"}, {"type": "text", "text": "What?"}
    for parts, expected in (
        ([image, text], "<image>What?"),
        ([text, {"type": "input_image", "image_url": "b.jpg"}], "What?<image>"),
        ([{"image": "b.jpg"}, {"text": "What?"}], "<image>What?"),
        (["What", {"type": "image", "path": "b.jpg", "text": None}, {"type": "input_text", "text": " is it?"}],
         "What<image> is it?"),
    ):  # fmt: skip
        row, notes = read(pictures, talk(parts, [{"type": "output_text", "text": "So."}]))
        assert told(row) == [(expected, "So.")] and notes == {}
        assert row.images[0].data == pictures_of(pictures, "b")
    row, _ = read(pictures, talk([{"type": "image", "text": None}, text], "So.", images=["a.jpg"]))
    assert told(row) == [("<image>What?", "So.")]
    row, _ = read(pictures, talk([{"type": "image", "index": 1}, {"type": "image", "index": 0}, text], "So.",
                                 images=["a.jpg", "b.jpg"]))  # fmt: skip
    assert row.meta["images"] == ["b.jpg", "a.jpg"]
    row, notes = read(pictures, talk([image | {"max_pixels": 9}, text], "So."))
    assert row.meta["messages[0][0].max_pixels"] == 9 and len(notes) == 1
    row, _ = read(pictures, talk([image, text], "So."), "sharegpt")
    assert "with --source llava" in row.detail
    row, _ = read(pictures, talk([text], [image]))
    assert isinstance(row, Quarantined) and "the assistant shows a picture" in row.detail


def test_parquet_of_conversations_and_columns_that_nobody_knows(pictures: Raw) -> None:
    held = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    picture = pa.array([{"bytes": pictures_of(pictures, "a"), "path": None}], held)
    said = [{"from": "human", "value": "a", "weight": None}, {"from": "gpt", "value": "b", "weight": 0.0},
            {"from": "human", "value": "c", "weight": 0.0}, {"from": "gpt", "value": "d", "weight": 1.0}]  # fmt: skip

    def row(source: str, **columns: Any) -> tuple[Any, dict[str, int]]:
        path = pictures.root / "t.parquet"
        pq.write_table(pa.table({"conversations": [said], **columns}), path)
        return read(pictures, path, source)

    sample, notes = row("llava", image=picture, thumb=picture)
    assert (told(sample)[0], len(sample.images)) == (("<image>a", "b"), 1)
    assert [turn.learned for turn in sample.turns] == [False, True]
    assert "thumb" not in sample.meta and "column 'thumb' holds bytes and is not known; left out" in notes
    nothing = pa.array([None], held)
    sample, notes = row("llava", image=picture, video=nothing, audio=nothing, thumb=nothing)
    assert len(sample.images) == 1 and "answers that may not be learned stay as context" in notes
    assert isinstance(row("sharegpt", image=nothing, videos=nothing)[0], Sample)
    assert "field 'video' holds a video" in row("llava", image=picture, video=picture)[0].detail
    assert row("llava", thumb=picture)[0].reason == row("sharegpt", thumb=picture)[0].reason == "unsupported"
    assert row("sharegpt")[0].turns == row("llava")[0].turns


def test_other_sources_go_by_the_same_list(raw: Raw) -> None:
    alpaca = {"instruction": "a", "output": "b"}
    for more, reason in (
        ({"is_correct": False}, "excluded"),
        ({"images": ["a.jpg"]}, "unsupported"),
        ({"audio": "a"}, "unsupported"),
    ):
        row, _ = read(raw, alpaca | more, "alpaca_gpt4")
        assert row.reason == reason
    row, notes = read(raw, alpaca | {"history": [["p", "q"]], "system": "s", "foo": 1}, "alpaca_gpt4")
    assert told(row) == [("p", "q"), ("a", "b")] and (row.meta["system"], row.meta["foo"], len(notes)) == ("s", 1, 2)
    row, _ = read(raw, {"instruction": "a", "chosen": "b", "rejected": "c"}, "alpaca_gpt4")
    assert told(row) == [("a", "b")] and row.meta["rejected"] == "c"
    row, _ = read(raw, {"instruction": "a", "context": "x", "response": "b"}, "gpteacher")
    assert told(row) == [("a\n\nx", "b")]
    row, _ = read(raw, {"id": 0, "data": ["a", "b"], "skip": True}, "ultrachat")
    assert row.reason == "excluded"
    row, notes = read(raw, {"input": "a", "output": "b", "rating": 1}, "pf1m")
    assert row.meta["rating"] == 1 and len(notes) == 1
    row, _ = read(raw, {"input": "<video>a", "output": "b"}, "pf1m")
    assert row.reason == "unsupported"

    def said(text: str, role: str, *replies: Any, **more: Any) -> dict[str, Any]:
        return {"text": text, "role": role, "replies": list(replies), **more}

    spam = {"spam": {"value": 1.0, "count": 3}, "quality": {"value": 1.0, "count": 3}}
    replies = [said("bad", "assistant", rank=0, labels=spam), said("good", "assistant", rank=1, synthetic=True)]
    tree = {"message_tree_id": "t", "prompt": said("q", "prompter", *replies)}
    row, notes = read(raw, tree, "oasst1")
    assert told(row) == [("q", "good")] and row.meta["turns[0].answer.synthetic"] is True
    assert "replies beside the best one are left out" in notes
    row, _ = read(raw, tree | {"tree_state": "aborted_low_grade"}, "oasst1")
    assert row.reason == "excluded"


NAMES = st.sampled_from([name for field in FIELDS for name in field.names] + ["video", "language", "foo", "isGood"])
READ = {
    "llava": {"messages", "id", "system", *IMAGE_NAMES},
    "alpaca_gpt4": {"instruction", "output", "history", "input"},
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(NAMES | st.text(max_size=6), JUNK | st.booleans() | st.sampled_from([0, 1]), max_size=4),
    own=st.dictionaries(NAMES | st.text(max_size=6), JUNK | st.booleans() | st.sampled_from([0, 1]), max_size=2),
)
@pytest.mark.parametrize("source", ["llava", "sharegpt", "alpaca_gpt4"])
def test_no_field_is_lost_without_a_word(raw: Raw, source: str, fields: dict[str, Any], own: dict[str, Any]) -> None:
    """Of a row that is kept, each field is in `meta` and noted, or of a kind whose value asks for nothing."""
    own = {name: value for name, value in own.items() if name not in ("role", "content", "from", "value", "text")}
    if source == "alpaca_gpt4":
        record, own = {"instruction": "a", "output": "b"}, {}
    else:
        record = talk("a", "b", "c", ("d", own))
    fields = {name: value for name, value in fields.items() if name not in record}
    row, notes = read(raw, fields | record, source)
    if isinstance(row, Quarantined):
        return
    honoured = {name for field in FIELDS for name in field.names if field.kind != "kept"} | {"isGood"}
    for place, given_fields in (("", fields), ("messages[3].", own)):
        for name, value in given_fields.items():
            written = name.encode("utf-8", "replace").decode()
            kept = f"{place}{written}" in row.meta or f"record.{written}" in row.meta
            said = any(repr(written) in note for note in notes)
            medium = bool(media_of_field(name, value, "message" if place else "record"))  # and empty
            silent = value is None or name in honoured or medium or name in READ.get(source, ())
            assert (kept and said) or silent or name in ("prompt", "completion", "objects", "system"), (name, value)


def test_each_example_of_a_placeholder_is_found() -> None:
    from polite_flamingo.sources.records.placeholders import find_placeholders

    for placeholder in PLACEHOLDERS:
        for example in placeholder.example.split(", "):
            example = example.replace("path.jpg", "a.jpg").replace("path", "a.jpg")
            assert [found.becomes for found, _, _ in find_placeholders(example)][:1] == [placeholder.becomes], example
