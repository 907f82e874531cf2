"""A conversation is taken apart into single-turn samples, and what became of them is put back."""

from __future__ import annotations

from dataclasses import replace

from polite_flamingo.conversations import is_rewritten, joined, parts_of, raw, with_texts
from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.storage.shards import decode_record, encode_record

PICTURES = tuple(Image(extension="png", data=data) for data in (b"first", b"second"))

CONVERSATION = Sample(
    key="llava/train/7", dataset="llava", task="dialogue", images=PICTURES,
    turns=(
        Turn(instruction="<image>What is it?", response="A cat."),
        Turn(instruction="Say hello.", response="hello", learned=False),
        Turn(instruction="And here?<image>", response="a dog"),
        Turn(instruction="Which is larger?", response="the dog"),
    ),
)  # fmt: skip


def test_each_turn_to_learn_is_a_sample_with_the_pictures_shown_so_far() -> None:
    parts = parts_of(CONVERSATION)
    assert list(parts) == [0, 2, 3]
    assert [part.key for part in parts.values()] == [
        "llava/train/7/turn0",
        "llava/train/7/turn2",
        "llava/train/7/turn3",
    ]
    assert [part.instruction for part in parts.values()] == [
        "<image>What is it?", "<image>And here?<image>", "<image><image>Which is larger?",
    ]  # fmt: skip
    assert [len(part.images) for part in parts.values()] == [1, 2, 2]
    for part in parts.values():
        assert part.validate() is part


def test_a_sample_of_one_turn_is_its_own_part() -> None:
    single = replace(CONVERSATION, turns=CONVERSATION.turns[:1], images=PICTURES[:1])
    assert parts_of(single) == {0: single}
    assert with_texts(single, ["It is a cat."]) == replace(single, rewritten="It is a cat.")
    bad = BadSample("rewriting_failed", "refused")
    assert with_texts(single, [bad]) is bad


def test_a_turn_that_fails_is_marked_and_the_others_go_on() -> None:
    done = with_texts(CONVERSATION, ["It is a cat.", None, BadSample("rewriting_failed", "refused"), "The dog is."])
    assert isinstance(done, Sample)
    assert [turn.rewritten for turn in done.turns] == ["It is a cat.", None, None, "The dog is."]
    assert [turn.failed for turn in done.turns] == ["", "", "rewriting_failed", ""]
    assert is_rewritten(done) and not is_rewritten(CONVERSATION)
    assert raw(done) == CONVERSATION


def test_a_conversation_without_any_text_has_failed() -> None:
    first = BadSample("corrupt_image", "broken")
    assert with_texts(CONVERSATION, [first, None, *[BadSample("rewriting_failed", "refused")] * 2]) is first
    rest = with_texts(CONVERSATION, ["Yes.", None, *[BadSample("rewriting_failed", "refused")] * 2])
    assert isinstance(rest, Sample)
    unscored = BadSample("scoring_failed", "NaN")
    assert joined(rest, {0: unscored}) is unscored, "its only text has no scores"


def test_scores_of_turns_survive_a_shard() -> None:
    done = with_texts(CONVERSATION, ["It is a cat.", None, BadSample("rewriting_failed", "refused"), "The dog is."])
    assert isinstance(done, Sample)
    scored = joined(done, {0: replace(parts_of(done)[0], scores={"reward": 1.5})})
    assert isinstance(scored, Sample)
    assert Sample.from_record(decode_record(encode_record(scored)), PICTURES) == scored
    assert parts_of(scored)[0].scores == {"reward": 1.5}


def test_a_conversation_without_any_text_fails_for_the_reason_of_its_first_turn() -> None:
    """The first had no text when the second was scored."""
    turns = (
        Turn(instruction="A?", response="a", learned=False),
        Turn(instruction="B?", response="b", failed="refused"),
        Turn(instruction="C?", response="c", rewritten="It is c."),
    )
    talk = Sample(key="d/t/1", dataset="d", task="dialogue", turns=turns)
    failed = joined(talk, {2: BadSample("scoring_failed", "d/t/1/turn2: no embedding")})
    assert isinstance(failed, BadSample) and failed.reason == "refused"
    assert failed.detail.startswith("d/t/1/turn1 has no text") and "no embedding" in failed.detail
