"""Trees of messages: the best path, and which messages are not replies."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sources.reading.errors import SourceError
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import JUNK


def said(text: Any, *replies: Any, role: str = "", **more: Any) -> dict[str, Any]:
    """A message; the roles of the replies alternate with its own."""
    role = role or "prompter"
    other = "assistant" if role == "prompter" else "prompter"
    return {
        "text": text,
        "role": role,
        "replies": [
            said(*reply[0], role=other, **reply[1]) if isinstance(reply, tuple) else reply for reply in replies
        ],
        **more,
    }


def reply(text: Any, *replies: Any, **more: Any) -> tuple[Any, Any]:
    return (text, *replies), more


def tree(prompt: Any, name: Any = "t", **more: Any) -> dict[str, Any]:
    return {"message_tree_id": name, "tree_state": "ready_for_export", "prompt": prompt, **more}


def one(raw: Raw, record: Any) -> Any:
    samples, quarantined = raw.read("oasst1", raw.text("trees.jsonl", json.dumps(record)), split="")
    return (samples + quarantined)[0]


def path(raw: Raw, record: Any) -> Any:
    row = one(raw, record)
    return (
        [text for turn in row.turns for text in (turn.instruction, turn.response)]
        if hasattr(row, "turns")
        else row.reason
    )


def test_the_best_ranked_reply_wins_and_unranked_ones_come_last(raw: Raw) -> None:
    worse, best = reply("worse", rank=1), reply("best", rank=0)
    assert path(raw, tree(said("q", reply("none"), worse, reply("null", rank=None), best))) == ["q", "best"]
    assert path(raw, tree(said("q", reply("none"), reply("null", rank=None)))) == ["q", "none"]
    assert path(raw, tree(said("q", reply("first", rank=1), reply("second", rank=1)))) == ["q", "first"]


def test_the_path_goes_on_through_what_is_answered(raw: Raw) -> None:
    further = [reply("unanswered", rank=0), reply("q2", reply("a2", reply("q3")), rank=1), reply("q4", reply("a4"))]
    assert path(raw, tree(said("q", reply("a", *further)))) == ["q", "a", "q2", "a2"]


@pytest.mark.parametrize(
    "unusable",
    [{"deleted": True}, {"review_result": False}, {"review_result": None}, {"review_count": 1}, {"role": "system"}],
)
def test_deleted_or_unaccepted_messages_are_not_replies(raw: Raw, unusable: Any) -> None:
    first, second = said("bad", role="assistant", rank=0), said("good", role="assistant", rank=1)
    assert path(raw, tree(said("q", first, second))) == ["q", "bad"]
    assert path(raw, tree(said("q", first | unusable, second))) == ["q", "good"]
    assert path(raw, tree(said("q", first | unusable))) == "missing_annotation"
    assert path(raw, tree(said("q", first) | unusable)) == "missing_annotation"
    accepted = {"review_result": True, "review_count": 3, "deleted": False}
    assert path(raw, tree(said("q", first | accepted, second))) == ["q", "bad"]


def test_the_tree_names_the_sample_and_its_language(raw: Raw) -> None:
    sample = one(raw, tree(said(" q\n  q ", reply("a <image>\n"), lang="pt-BR"), "0b5c-1"))
    assert (sample.key, sample.instruction, sample.response) == ("oasst1/train/0b5c-1", "q\n  q", "a (image)")
    assert sample.meta == {"language": "pt-BR", "unmarked": 1, "source": "trees.jsonl#trees[0]"}


def test_messages_with_their_replies_are_trees_without_a_wrapper(raw: Raw) -> None:
    sample = one(raw, said("q", reply("a"), message_id="m", parent_id=None))
    assert (sample.key, sample.instruction, sample.response) == ("oasst1/train/m", "q", "a")


@pytest.mark.parametrize(
    ("record", "reason", "says"),
    [
        (tree(said("q")), "missing_annotation", "no usable reply"),
        (tree(said("q") | {"replies": None}), "missing_annotation", "no usable reply"),
        ({"message_id": "m", "parent_id": "n", "text": "a", "role": "assistant"}, "missing_annotation", "not a prompt"),
        (
            {"message_id": "m", "parent_id": None, "text": "q", "role": "prompter"},
            "missing_annotation",
            "messages given",
        ),
        (tree(None), "missing_annotation", "deleted"),
        (tree(said("")), "missing_annotation", "deleted"),
        (tree("q"), "bad_field", "must be an object"),
        (tree(said(3, reply("a"))), "bad_field", "the text of a message"),
        (tree(said("q", reply(None))), "bad_field", "the text of a message"),
        (tree(said("q", "a")), "bad_field", "must be an object"),
        (tree(said("q") | {"replies": "a"}), "bad_field", "must be a list"),
        (tree(said("q", reply("a", rank="0"))), "bad_field", "field 'rank'"),
        (tree(said("q", reply("a", rank=float("nan")))), "bad_field", "field 'rank'"),
        (tree(said("q", reply("a"), lang=3)), "bad_field", "field 'lang'"),
        (tree(said("q", reply("a")), None), "bad_field", "field 'message_tree_id'"),
        (3, "bad_field", "must be an object"),
        (tree(said("q", reply("a" * 100_001))), "text_too_long", "100001 characters"),
    ],
)
def test_bad_trees_are_quarantined(raw: Raw, record: Any, reason: str, says: str) -> None:
    row = one(raw, record)
    assert (row.payload, row.reason) == ("trees.jsonl#trees[0]", reason)
    assert says in row.detail


def test_lines_of_a_packed_file_cost_only_themselves(raw: Raw) -> None:
    good = json.dumps(tree(said("q", reply("a"))))
    deep = '{"message_tree_id": "d", "prompt": ' + '{"replies": [' * 2000 + "]}" * 2000 + "}"
    file = raw.root / "trees.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join([good, "{oops", deep, good]).encode()))
    samples, quarantined = raw.read("oasst1", file)
    assert [sample.key for sample in samples] == ["oasst1/val/t"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("trees.jsonl.gz#trees[1]", "bad_json"),
        ("trees.jsonl.gz#trees[2]", "bad_json"),
        ("trees.jsonl.gz#trees[3]", "duplicate_key"),
    ]
    file.write_bytes(gzip.compress(good.encode())[:-9])
    with pytest.raises(SourceError, match="does not unpack"):
        raw.read("oasst1", file)


def test_a_long_path_needs_no_deep_stack(raw: Raw) -> None:
    last = said("a0", role="assistant")
    for number in range(1, 220):
        last = said(f"a{number}", said(f"q{number}", last), role="assistant")
    sample = one(raw, tree(said("q", last)))
    assert len(sample.turns) == 220 and sample.turns[-1].response == "a0"


MESSAGE = st.recursive(
    st.just([]) | JUNK,
    lambda replies: st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["assistant", "prompter"]), "replies": replies},
            optional={
                "text": st.text(max_size=3) | JUNK, "rank": st.integers(0, 3) | JUNK, "deleted": JUNK, "lang": JUNK,
                "review_result": JUNK,
            },
        ),
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(replies=MESSAGE)
def test_any_tree_leaves_once(raw: Raw, replies: Any) -> None:
    assert one(raw, tree({"text": "q", "role": "prompter", "replies": replies})) is not None


EXCERPT = {
    "054e1df3-35e0-4bb8-a585-607dbdcd24e0": ["How can I find the best 401k plan for my needs?", "The first step is"],
    "ea201f57-d24a-40f3-a0a7-ad15b893e538": [
        "How to protect my eyes when I have to stare at my ", "Your eyes are not designed to stare at one thing i",
        "Are blue light blocking glasses also effective?", "There is no scientific research to prove that blue",
    ],
    "44f6d71c-2b4a-4197-8afc-34bcb233b744": [
        "What differences are there between ChatGPT and Ins", "Both ChatGPT and InstructGPT are auto-regressive l",
        "Can you provide me some sample code to access the ", "Sure. Here is some sample code in Python to access",
    ],
    "951cb256-e0f7-49a4-9236-779f2be14b41": [
        "When I buy a new TV, what specifications should I ", "When purchasing a new TV, here are the important s",
    ],
    "d297d633-a592-44c4-be0b-7e7e4306cac0": [
        "What isbthe best programing language for 2023", "I really depends on the task that you aiming to so",
    ],
    "4579bd71-422e-4d08-a305-f06a4842d5b4": [
        "Write me an outline about the metaphorical use of ", "I. Introduction\nA. Overview of the use of time as ",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("file", "count"), [("en_100_tree.head5.jsonl", 5), ("en_100_message.head6.jsonl", 6)])
def test_real_oasst1(real: Any, file: str, count: int) -> None:
    samples, quarantined = real("oasst1", "", f"oasst1/{file}")
    assert quarantined == []
    assert [sample.key for sample in samples] == [f"oasst1/train/{name}" for name in list(EXCERPT)[:count]]
    for sample, expected in zip(samples, EXCERPT.values(), strict=False):
        found = [text for turn in sample.turns for text in (turn.instruction, turn.response)]
        assert len(found) == len(expected) and all(map(str.startswith, found, expected))
        assert sample.meta["language"] == "en"


def test_real_messages_that_are_not_trees(real: Any) -> None:
    samples, quarantined = real("oasst1", "", "oasst1/realistic_seed_data.head60.json")
    assert samples == []
    assert [(row.reason, row.detail) for row in quarantined] == [("bad_field", "field 'message_id' is missing")] * 60
