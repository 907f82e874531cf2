"""Fields that change what a record means: honoured, or quarantined by name, or kept and noted."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.field_meanings import FIELDS, IMAGE_NAMES
from polite_flamingo.sources.records.media_fields import media_of_field
from tests.support.one_record import bytes_of, chat, read_one, turns_of
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import JUNK


@pytest.mark.parametrize("source", ["llava", "sharegpt"])
@pytest.mark.parametrize(
    ("record", "says"),
    [
        (chat("<video>\nWhat happens?", "A dog runs.", video="v.mp4"), "field 'video' holds a video"),
        (chat("What happens?", "A dog runs.", videos=["v.mp4"]), "field 'videos' holds a video"),
        (chat("What?", "A dog.", videoPath="v"), "field 'videoPath' holds a video"),
        (chat("What?", "A dog.", clip="v.webm"), "field 'clip' holds a video"),
        (chat("What?", "A dog.", is_video=True), "field 'is_video' holds a video"),
        (chat("What?", "A dog.", modality="video"), "field 'modality' holds a video"),
        (chat("Transcribe.", "Hello.", audios=["s.wav"]), "field 'audios' holds audio"),
        (chat("Transcribe.", ("Hello.", {"audio": {"id": "x"}})), "field 'audio' of messages[1] holds audio"),
        (chat("<video>\nWhat happens?", "A dog runs."), "'<video>' in a text"),
        (chat("<|audio_1|> Transcribe.", "Hello."), "'<|audio_1|>' in a text"),
        (chat("<audio>s.wav</audio> Transcribe.", "Hello."), "'<audio>' in a text"),
        (chat([{"type": "video", "video": "v.mp4"}], "A dog."), "of type 'video'"),
        (chat([{"type": "input_audio", "input_audio": {}}], "A dog."), "of type 'input_audio'"),
        (chat([{"type": "file", "file": {}}], "A dog."), "of type 'file'"),
        (chat("a", "b", tools=[{"type": "function"}]), "field 'tools' holds calls of tools"),
        (chat("a", ("b", {"tool_calls": [{"id": "1"}]})), "field 'tool_calls' of messages[1]"),
        (chat("a", "b", input_ids=[1, 2]), "field 'input_ids' holds tokens"),
        (chat("a", ("b", {"train_detail": [{"begin_offset": 0}]})), "field 'train_detail' of messages[1]"),
        (chat("a", ("b", {"weight": 0.5})), "field 'weight' of messages[1] is 0.5"),
        (chat("a", "b", "c", "d", loss_mask=[0, 1, 1]), "whether 3 turns are learned; the record has 2 answers"),
        (chat("a", "b", mask="Assistant"), "field 'mask': the human's words would be learned"),
        (chat("a", ("b", {"weight": 0}), ("c", {}), ("d", {"weight": 0}), "e", "f")
         | {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                         {"role": "assistant", "content": "c"}]}, "parts to learn and parts not to learn"),
        (chat("<cot-process>", "b"), "'<cot-process>' in a text"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_quarantined_by_name(pictures: Raw, record: Any, says: str, source: str) -> None:
    row, notes = read_one(pictures, record, source)
    assert isinstance(row, Quarantined) and (row.reason, notes) == ("unsupported", {})
    assert says in row.detail


@pytest.mark.parametrize("source", ["llava", "sharegpt"])
@pytest.mark.parametrize(
    ("record", "says"),
    [
        (chat("a", "b", kto_tag=False), "field 'kto_tag'"),
        (chat("a", "b", label=False), "field 'label'"),
        (chat("a", "b", isCorrect=False), "field 'isCorrect'"),
        (chat("a", "b", is_correct=0), "field 'is_correct'"),
        (chat("a", "b", toxic=True), "field 'toxic'"),
        (chat("a", "b", rejected=True), "field 'rejected'"),
        (chat("a", "b", feedback="thumbs-down"), "field 'feedback'"),
        (chat("a", "b", verdict="incorrect"), "field 'verdict'"),
        (chat("a", "b", vote=-1), "field 'vote'"),
        (chat("a", "b", finish_reason="length"), "field 'finish_reason'"),
        (chat("a", "b", skip="true"), "field 'skip'"),
        (chat("a", ("b", {"deleted": True}), "c", "d"), "field 'deleted' of messages[1]"),
        (chat("a", "b", train=False), "field 'train'"),
        (chat("a", ("b", {"weight": 0})), "field 'weight' of messages[1]"),
        (chat("a", ("b", {"mask": True}), "c", ("d", {"mask": 1})), "field 'mask' of messages[1]"),
    ],
)
def test_what_is_called_bad_is_not_taught(pictures: Raw, record: Any, says: str, source: str) -> None:
    row, notes = read_one(pictures, record, source)
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
    row, notes = read_one(pictures, chat("a", ("b", fields), "c", ("d", good)), "sharegpt")
    assert turns_of(row) == [("a", "b"), ("c", "d")]
    assert [turn.learned for turn in row.turns] == [False, True]
    assert [turn.get("learned") for turn in row.to_record()["turns"]] == [False, None]
    assert notes == {"answers that may not be learned stay as context": 1}


def test_lists_of_masks_and_masks_of_the_human(pictures: Raw) -> None:
    for flags in ([0, 1], [False, False, False, True], [1, 0, 1, 1]):
        row, _ = read_one(pictures, chat("a", "b", "c", "d", assistant_masks=flags), "sharegpt")
        assert [turn.learned for turn in row.turns] == [False, True]
    orca = chat(("a", {"weight": 0.0}), ("b", {"weight": 1.0}), mask="User")  # SlimOrca, NeMo
    row, notes = read_one(pictures, orca, "sharegpt")
    assert [turn.learned for turn in row.turns] == [True] and notes == {}
    row, notes = read_one(pictures, chat(("a", {"train": True}), "b"), "sharegpt")
    assert list(notes) == ["human messages are never learned, whatever their fields say"]


def test_null_and_empty_say_nothing(pictures: Raw) -> None:
    nothing = {"video": None, "videos": [], "audios": "", "tools": "[]", "tool_calls": None, "kto_tag": None, "x": None}
    for source in ("llava", "sharegpt"):
        row, notes = read_one(pictures, chat("a", ("b", {"tool_calls": [], "audio": None}), **nothing), source)
        assert turns_of(row) == [("a", "b")] and notes == {} and set(row.meta) == {"source"}


def test_other_fields_are_kept_and_noted(pictures: Raw) -> None:
    record = chat("<image>a", ("b", {"reasoning_content": "hm", "name": "Bo"}), image="a.jpg", score=0.2, label=3,
                  source="coco", foo={"x": [1, float("nan")]}, rejected_response="no", system="Be brief.")  # fmt: skip
    row, notes = read_one(pictures, record)
    assert turns_of(row) == [("<image>a", "b")]
    assert row.meta == {
        "images": ["a.jpg"], "source": "r.json#conversations[0]", "system": "Be brief.", "score": 0.2, "label": 3,
        "record.source": "coco", "foo": {"x": [1, None]}, "rejected_response": "no", "messages[1].name": "Bo",
        "messages[1].reasoning_content": "hm",
    }  # fmt: skip
    assert set(notes.values()) == {1} and len(notes) == 8
    assert "field 'foo' is not known; kept in meta" in notes
    assert any(note.startswith("field 'rejected_response': the answer that was not preferred") for note in notes)


def test_parquet_of_conversations_and_columns_that_nobody_knows(pictures: Raw) -> None:
    held = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    picture = pa.array([{"bytes": bytes_of(pictures, "a"), "path": None}], held)
    said = [{"from": "human", "value": "a", "weight": None}, {"from": "gpt", "value": "b", "weight": 0.0},
            {"from": "human", "value": "c", "weight": 0.0}, {"from": "gpt", "value": "d", "weight": 1.0}]  # fmt: skip

    def row(source: str, **columns: Any) -> tuple[Any, dict[str, int]]:
        path = pictures.root / "t.parquet"
        pq.write_table(pa.table({"conversations": [said], **columns}), path)
        return read_one(pictures, path, source)

    sample, notes = row("llava", image=picture, thumb=picture)
    assert (turns_of(sample)[0], len(sample.images)) == (("<image>a", "b"), 1)
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
        row, _ = read_one(raw, alpaca | more, "alpaca_gpt4")
        assert row.reason == reason
    row, notes = read_one(raw, alpaca | {"history": [["p", "q"]], "system": "s", "foo": 1}, "alpaca_gpt4")
    assert turns_of(row) == [("p", "q"), ("a", "b")] and (row.meta["system"], row.meta["foo"], len(notes)) == (
        "s",
        1,
        2,
    )
    row, _ = read_one(raw, {"instruction": "a", "chosen": "b", "rejected": "c"}, "alpaca_gpt4")
    assert turns_of(row) == [("a", "b")] and row.meta["rejected"] == "c"
    row, _ = read_one(raw, {"instruction": "a", "context": "x", "response": "b"}, "gpteacher")
    assert turns_of(row) == [("a\n\nx", "b")]
    row, _ = read_one(raw, {"id": 0, "data": ["a", "b"], "skip": True}, "ultrachat")
    assert row.reason == "excluded"
    row, notes = read_one(raw, {"input": "a", "output": "b", "rating": 1}, "pf1m")
    assert row.meta["rating"] == 1 and len(notes) == 1
    row, _ = read_one(raw, {"input": "<video>a", "output": "b"}, "pf1m")
    assert row.reason == "unsupported"

    def said(text: str, role: str, *replies: Any, **more: Any) -> dict[str, Any]:
        return {"text": text, "role": role, "replies": list(replies), **more}

    spam = {"spam": {"value": 1.0, "count": 3}, "quality": {"value": 1.0, "count": 3}}
    replies = [said("bad", "assistant", rank=0, labels=spam), said("good", "assistant", rank=1, synthetic=True)]
    tree = {"message_tree_id": "t", "prompt": said("q", "prompter", *replies)}
    row, notes = read_one(raw, tree, "oasst1")
    assert turns_of(row) == [("q", "good")] and row.meta["turns[0].answer.synthetic"] is True
    assert "replies beside the best one are left out" in notes
    row, _ = read_one(raw, tree | {"tree_state": "aborted_low_grade"}, "oasst1")
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
def test_no_field_is_lost_silently(raw: Raw, source: str, fields: dict[str, Any], own: dict[str, Any]) -> None:
    """Each field of a kept row is in `meta` and noted, or has a kind and a value that ask for nothing."""
    own = {name: value for name, value in own.items() if name not in ("role", "content", "from", "value", "text")}
    if source == "alpaca_gpt4":
        record, own = {"instruction": "a", "output": "b"}, {}
    else:
        record = chat("a", "b", "c", ("d", own))
    fields = {name: value for name, value in fields.items() if name not in record}
    row, notes = read_one(raw, fields | record, source)
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
