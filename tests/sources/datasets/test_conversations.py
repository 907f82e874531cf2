"""Conversations without images: which turns become exchanges, and what is noted about the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import content_hash
from polite_flamingo.sources.records.extra_fields import Findings
from polite_flamingo.sources.records.field_meanings import SPEAKERS
from polite_flamingo.sources.records.message_content import Message
from polite_flamingo.sources.records.turns import to_turns
from tests.support.raw_dataset import SHARED, Raw
from tests.support.record_strategies import JUNK, spoiled

H, G, S = "human", "gpt", "system"


def chat(*said: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in said], **more}


def one(raw: Raw, record: Any, source: str = "sharegpt") -> Any:
    samples, quarantined = raw.read(source, raw.json("chats.json", [record]), split="")
    return (samples + quarantined)[0]


def pairs(sample: Any) -> list[tuple[str, str]]:
    return [(turn.instruction, turn.response) for turn in sample.turns]


def notes(sample: Any) -> dict[str, Any]:
    return {name: note for name, note in sample.meta.items() if name != "source"}


def test_a_conversation_is_its_exchanges_verbatim(raw: Raw) -> None:
    code = "def f():\n    return  1\n"
    record = chat((H, "  Write f.\n"), (G, code), (H, "Thanks"), (G, "\n\nWelcome."), id="abc_0")
    sample = one(raw, record)
    assert pairs(sample) == [("Write f.", code.strip()), ("Thanks", "Welcome.")]
    assert sample.key == f"sharegpt/train/abc_0-{content_hash(record)}"
    assert (sample.task, sample.images, notes(sample)) == ("text", (), {})
    assert sample.meta["source"] == "chats.json#conversations[0]"


@pytest.mark.parametrize(
    ("said", "expected", "noted"),
    [
        ([(G, "Hi"), (G, "Hello"), (H, "a"), (G, "b")], [("a", "b")], {"left_out_before": 2}),
        ([(H, "a"), (G, "b"), (H, "c"), (H, "d")], [("a", "b")], {"left_out_after": 2}),
        ([(G, ""), (H, "a"), (G, "b"), (H, "")], [("a", "b")], {"left_out_before": 1, "left_out_after": 1}),
        ([(H, "a"), (H, "b"), (G, "c"), (G, " "), (G, "d")], [("a\n\nb", "c\n\nd")], {"joined": 3}),
        ([(S, " Be brief. "), (S, " "), (H, "a"), (G, "b")], [("a", "b")], {"system": "Be brief."}),
        ([(H, "a"), (S, "x"), (G, "b"), (S, "y")], [("a", "b")], {"system": "x\n\ny"}),
        ([("user", "a"), ("ChatGPT", "b"), ("user", "c"), ("bard", "d")], [("a", "b"), ("c", "d")], {}),
    ],
)
def test_turns_that_are_not_an_exchange_are_left_out_or_joined_and_noted(
    raw: Raw, said: Any, expected: Any, noted: Any
) -> None:
    sample = one(raw, chat(*said))
    assert (pairs(sample), notes(sample)) == (expected, noted)


def test_joined_messages_are_reported_because_one_may_be_missing_between_them() -> None:
    for talk, joined in (((H, G, G), True), ((H, G, H, G), False)):
        found = Findings()
        to_turns([Message("human" if one is H else "assistant", ("said",)) for one in talk], found)
        assert any("are joined" in note for note in found.notes) == joined


def test_openai_s_messages_are_read_too_and_a_system_field(raw: Raw) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    sample = one(raw, {"messages": [*messages, {"role": "assistant", "content": "b"}]})
    assert (pairs(sample), notes(sample)) == ([("a", "b")], {"system": "s"})
    assert notes(one(raw, chat((H, "a"), (G, "b"), system="t"))) == {"system": "t"}


def test_words_that_look_like_an_image_show_none_and_are_counted(raw: Raw) -> None:
    sample = one(raw, chat((H, "What is <image> in HTML?"), (G, "<image> is no tag, <image> neither.")))
    assert pairs(sample) == [("What is (image) in HTML?", "(image) is no tag, (image) neither.")]
    assert notes(sample) == {"unmarked": 3}


@pytest.mark.parametrize(
    ("record", "reason", "says"),
    [
        ("oops", "bad_field", "must be an object"),
        ({"id": 1}, "bad_field", "'conversations' is missing"),
        ({"conversations": {}}, "bad_field", "must be a list"),
        (chat(), "missing_annotation", "no human message is answered"),
        (chat((G, "b")), "missing_annotation", "no human message is answered"),
        (chat((H, "a"), (S, "b")), "missing_annotation", "no human message is answered"),
        (chat((H, "a"), (G, " ")), "empty_response", "in exchange 1 the assistant says nothing"),
        (chat((H, "a"), (G, "b"), (H, ""), (G, "d")), "bad_field", "in exchange 2 the human says nothing"),
        (chat((H, "a"), (G, None)), "bad_field", "text of conversations[1] must be a string"),
        (chat((H, "a"), (G, "\ud800")), "bad_field", "not UTF-8"),
        (chat((H, "a"), ("tool", "b")), "unsupported", "'tool', which is neither"),
        (chat((H, "a"), ([], "b")), "bad_field", "the role of conversations[1]"),
        ({"conversations": [{"value": "a"}]}, "bad_field", "'role' is missing"),
        ({"conversations": [{"from": H}]}, "bad_field", "'content' is missing"),
        ({"conversations": ["a"]}, "bad_field", "must be an object"),
        (chat((H, "a"), (G, "b"), id=[1]), "bad_field", "field 'id'"),
        (chat((H, "a"), (G, "b"), system=3), "bad_field", "field 'system'"),
        (chat((H, "<image>"), (G, "b"), image="a.jpg"), "unsupported", "with --source llava"),
        (chat((H, "<image>"), (G, "b"), images=["a.jpg"]), "unsupported", "with --source llava"),
        (chat((H, "a"), (G, "b" * 100_001)), "text_too_long", "100001 characters"),
    ],
)
def test_a_record_that_is_not_a_conversation_is_quarantined(raw: Raw, record: Any, reason: str, says: str) -> None:
    row = one(raw, record)
    assert (row.payload, row.reason) == ("chats.json#conversations[0]", reason)
    assert says in row.detail


def test_only_a_true_copy_is_a_duplicate(raw: Raw) -> None:
    first, other = chat((H, "a"), (G, "b"), id="x_0"), chat((H, "a"), (G, "c"), id="x_0")
    samples, quarantined = raw.read("sharegpt", raw.json("chats.json", [first, other, first, chat((H, "a"), (G, "b"))]))
    assert [sample.key.rsplit("-", 1)[0] for sample in samples[:2]] == ["sharegpt/val/x_0"] * 2
    assert samples[2].key == f"sharegpt/val/{content_hash(chat((H, 'a'), (G, 'b')))}"
    assert [(row.payload, row.reason) for row in quarantined] == [("chats.json#conversations[2]", "duplicate_key")]


def test_the_key_depends_on_the_content_not_on_the_order_of_the_file(raw: Raw) -> None:
    records = [chat((H, "a"), (G, str(number))) for number in range(3)]
    keys = [
        {sample.response: sample.key for sample in raw.read("sharegpt", raw.json("c.json", order))[0]}
        for order in (records, records[::-1])
    ]
    assert keys[0] == keys[1] and len(keys[0]) == 3


def test_lists_lines_and_single_objects_are_told_apart(raw: Raw) -> None:
    records = [chat((H, "a"), (G, str(number))) for number in range(3)]
    lines = "\n".join([json.dumps(records[0]), "", "{broken", json.dumps(records[1]), json.dumps(records[2])])
    files = [
        (raw.json("list.json", records), 3),
        (raw.text("indented.json", json.dumps(records, indent=2)), 3),
        (raw.text("lines.jsonl", lines), 3),
        (raw.text("single.json", json.dumps(records[0], indent=2)), 1),
        (raw.text("empty.json", ""), 0),
    ]
    for file, count in files:
        samples, quarantined = raw.read("sharegpt", file)
        assert [sample.response for sample in samples] == ["0", "1", "2"][:count]
        bad = [("lines.jsonl#conversations[1]", "bad_json")] if file.name == "lines.jsonl" else []
        assert [(row.payload, row.reason) for row in quarantined] == bad
    for content in ('{\n"conversations": []', '{\n"a": 1}\n{"a": 2}', "[1, 2"):
        with pytest.raises(SourceError, match="not JSON"):
            raw.read("sharegpt", raw.text("broken.json", content))


def test_bytes_of_another_encoding_cost_only_their_line(raw: Raw) -> None:
    file = raw.root / "u.json"
    good = {"id": "1", "data": ["a", "b"]}
    file.write_bytes('{"id": "0", "data": ["où", "b"]}\n'.encode("latin-1") + json.dumps(good).encode())
    samples, quarantined = raw.read("ultrachat", file)
    assert [sample.response for sample in samples] == ["b"]
    assert [(row.payload, row.reason) for row in quarantined] == [("u.json#conversations[0]", "bad_field")]


def test_ultrachat_takes_turns(raw: Raw) -> None:
    record = {"id": "0", "data": ["a", "b", "c", "d", "e"]}
    sample = one(raw, record, "ultrachat")
    assert sample.key == f"ultrachat/train/0-{content_hash(record)}"
    assert (pairs(sample), notes(sample)) == ([("a", "b"), ("c", "d")], {"left_out_after": 1})
    for data, reason in (
        (["a"], "missing_annotation"), ([], "missing_annotation"), (["a", ""], "empty_response"), ("ab", "bad_field"),
        (["a", 1], "bad_field"), (["", "b"], "bad_field"),
    ):  # fmt: skip
        assert one(raw, {"id": "0", "data": data}, "ultrachat").reason == reason
    assert one(raw, {"id": "0"}, "ultrachat").reason == "bad_field"


TURN = st.fixed_dictionaries(
    {}, optional={"from": st.sampled_from([*SPEAKERS, "tool"]) | JUNK, "value": st.text(max_size=4) | JUNK}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(TURN | JUNK, max_size=6) | JUNK, more=st.dictionaries(st.sampled_from(["id", "system"]), JUNK))
@pytest.mark.parametrize("source", ["sharegpt", "llava"])
def test_any_conversation_leaves_once_and_whole_or_not_at_all(raw: Raw, source: str, turns: Any, more: Any) -> None:
    row = one(raw, {"conversations": turns, **more}, source)  # `both` has looked at what may be written to a shard
    if hasattr(row, "turns"):
        assert all(turn.instruction.strip() and turn.response.strip() for turn in row.turns)
        said = [fields["value"].strip() for fields in turns if SPEAKERS[fields["from"].lower()] != "system"]
        told = [text for turn in row.turns for text in (turn.instruction, turn.response)]
        assert "".join("".join(said).split()).find("".join("".join(told).split())) >= 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoilt=spoiled([{"id": f"id-{n}", "conversations": [{"from": H, "value": f"{n}?"}, {"from": G, "value": "!"}]}
                       for n in range(4)]))  # fmt: skip
def test_spoiled_conversations_cost_only_themselves(raw: Raw, spoilt: Any) -> None:
    records, places = spoilt
    samples, quarantined = raw.read("sharegpt", raw.json("chats.json", records))
    assert len(samples) + len(quarantined) == 4
    assert {f"{n}?" for n in range(4) if n not in places} <= {sample.instruction for sample in samples}


def test_real_sharegpt(real: Any) -> None:
    samples, quarantined = real("sharegpt", "", "sharegpt/conversation.axolotl_fixture.json")
    assert quarantined == [] and len(samples) == 1 and len(samples[0].turns) == 6
    assert samples[0].key == "sharegpt/train/cf571d4fa28cd2fa"
    assert samples[0].instruction == (
        "how could i implement a minesweeper algorithm that utilises algebraic topology to solve boards?"
    )
    content = json.loads((SHARED / "samples/sharegpt/conversation.axolotl_fixture.json").read_text())
    told = [text for turn in samples[0].turns for text in (turn.instruction, turn.response)]
    assert told == [turn["value"].strip() for turn in content["conversations"]]
    samples, quarantined = real("sharegpt", "", "sharegpt/conversation.missingturns.axolotl_fixture.json")
    assert samples == []
    assert [(row.key, row.reason) for row in quarantined] == [("sharegpt/train/cfe7d8af91e243f6", "empty_response")]


def test_real_ultrachat(real: Any) -> None:
    samples, quarantined = real("ultrachat", "", "ultrachat/ultrachat_release.first1.TRANSCRIBED.jsonl")
    assert quarantined == [] and [sample.key for sample in samples] == ["ultrachat/train/0-a5f3dd6104ed15a4"]
    first, second = samples[0].turns
    assert first.instruction == (
        "How can cross training benefit groups like runners, swimmers, or weightlifters?"
    )  # fmt: skip
    assert first.response.startswith("Cross training can benefit groups like runners, swimmers, or weightlifters in ")
    assert "the following ways:\n\n1. Reduces the risk of injury: Cross" in first.response
    assert second.instruction.startswith("That makes sense. I've been wanting")
    assert second.response.endswith("for guidance on proper form and technique.")
