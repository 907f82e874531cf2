"""The layouts of conversations that people have, and messages of several parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polite_flamingo.sample import Quarantined
from tests.support.one_record import bytes_of, chat, read_one, turns_of
from tests.support.raw_dataset import Raw

PREFERRED = [
    {"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}},
    {"prompt": "a", "chosen": "b"},
    {"prompt": "a", "completion": "b"},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"chosen": chat("a", "b")["messages"]},
    chat("a", "b") | {"prompt": "a", "chosen": chat("a", "b")["messages"]},
    chat("a", "b") | {"chosen": "b"},
    {"messages": json.dumps(chat("a", "b")["messages"])},
    {"texts": [{"user": "a", "assistant": "b"}]},
    {"conversation": [{"human": "a", "assistant": "b"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "refusal": "b"}]},
    {"messages": [{"role": "developer", "content": "s"}, *chat("a", "b")["messages"]]},
]


@pytest.mark.parametrize("record", PREFERRED)
@pytest.mark.parametrize("source", ["llava", "sharegpt"])
def test_the_layouts_that_people_have(pictures: Raw, record: Any, source: str) -> None:
    row, _ = read_one(pictures, record | {"rejected": "z"}, source)
    assert turns_of(row) == [("a", "b")] and row.meta["rejected"] == "z"
    row, _ = read_one(pictures, chat("a", "b", chosen="c"), source)
    assert "'chosen' is another answer" in row.detail


def test_messages_of_parts(pictures: Raw) -> None:
    image, text = {"type": "image", "image": "b.jpg"}, {"type": "text", "text": "What?"}
    for parts, expected in (
        ([image, text], "<image>What?"),
        ([text, {"type": "input_image", "image_url": "b.jpg"}], "What?<image>"),
        ([{"image": "b.jpg"}, {"text": "What?"}], "<image>What?"),
        (["What", {"type": "image", "path": "b.jpg", "text": None}, {"type": "input_text", "text": " is it?"}],
         "What<image> is it?"),
    ):  # fmt: skip
        row, notes = read_one(pictures, chat(parts, [{"type": "output_text", "text": "So."}]))
        assert turns_of(row) == [(expected, "So.")] and notes == {}
        assert row.images[0].data == bytes_of(pictures, "b")
    row, _ = read_one(pictures, chat([{"type": "image", "text": None}, text], "So.", images=["a.jpg"]))
    assert turns_of(row) == [("<image>What?", "So.")]
    row, _ = read_one(pictures, chat([{"type": "image", "index": 1}, {"type": "image", "index": 0}, text], "So.",
                                 images=["a.jpg", "b.jpg"]))  # fmt: skip
    assert row.meta["images"] == ["b.jpg", "a.jpg"]
    row, notes = read_one(pictures, chat([image | {"max_pixels": 9}, text], "So."))
    assert row.meta["messages[0][0].max_pixels"] == 9 and len(notes) == 1
    row, _ = read_one(pictures, chat([image, text], "So."), "sharegpt")
    assert "with --source llava" in row.detail
    row, _ = read_one(pictures, chat([text], [image]))
    assert isinstance(row, Quarantined) and "the assistant shows a picture" in row.detail


def test_a_picture_that_only_a_text_source_sees_or_an_unknown_field_names(pictures: Raw) -> None:
    row, _ = read_one(pictures, chat("<img>a.jpg</img>What?", "So."), "sharegpt")
    assert "with --source llava" in row.detail
    row, _ = read_one(pictures, chat("What?", "So.", thumbnail="a.jpg"))
    assert isinstance(row, Quarantined) and "'thumbnail' may name a picture" in row.detail
    row, _ = read_one(pictures, chat("<image>What?", "So.", image_path="a.jpg", thumbnail="b.jpg"))
    assert len(row.images) == 1 and row.meta["thumbnail"] == "b.jpg"
    row, _ = read_one(pictures, chat("What?", "So.", image="a.jpg", images=["b.jpg"]))
    assert "'images' and 'image' name different pictures" in row.detail
