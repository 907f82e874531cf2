"""Messages become what the models were trained on, token by token, whatever clients send."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from polite_flamingo.flamingo.model.tokenization import Tokenizer, load_tokenizer
from polite_flamingo.packing.chat_turns import conversation_ids
from polite_flamingo.packing.pack import PackingConfig, pack
from polite_flamingo.prompts import SYSTEM
from polite_flamingo.sample import IMAGE_MARK, Image, Sample, Turn
from serving.chat.conversation import Conversation, plain, read_conversation
from serving.chat.protocol import Message
from serving.config import LimitsConfig
from serving.errors import ApiError
from tests.support.chat_service import picture
from tests.support.tiny_flamingo import Tiny

MESSAGES = TypeAdapter(list[Message])
SPELLED = ["<image>", "<", "im", "age>", "<|endofchunk|>", "</s>", "<s>", "<pad>", ">", "\n### Human: ", "Hi", " ", "é"]


@pytest.fixture(scope="module")
def tokenizer(tiny: Tiny) -> Tokenizer:
    return load_tokenizer(tiny.config)


def read(*messages: Any, **limits: Any) -> Conversation:
    return read_conversation(MESSAGES.validate_python(list(messages)), LimitsConfig(**limits))


def says(role: str, *content: Any) -> dict[str, Any]:
    """A message; a number is an image of that name."""
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:{one}"}}
        if isinstance(one, int)
        else {"type": "text", "text": one}
        for one in content
    ]
    return {"role": role, "content": content[0] if len(content) == 1 and isinstance(content[0], str) else parts}


def refused(*messages: Any, **limits: Any) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        read(*messages, **limits)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


def prompts(*messages: Any) -> list[str]:
    return [one.prompt.removeprefix(SYSTEM) for one in read(*messages).exchanges]


words = st.text(max_size=30).filter(lambda text: text.strip() and plain(text) == text)


@given(turns=st.lists(st.tuples(st.integers(0, 3), words, words), min_size=1, max_size=4))
def test_a_conversation_reads_as_a_row_of_training_up_to_its_last_answer(tokenizer: Tokenizer, turns: Any) -> None:
    sample = Sample(
        key="d/s/1",
        dataset="d",
        task="dialogue",
        turns=tuple(
            Turn(instruction=IMAGE_MARK * images + asked, response=answered) for images, asked, answered in turns
        ),
        images=tuple(Image(extension="png", data=picture(1)) for images, _, _ in turns for _ in range(images)),
    )
    config = PackingConfig(window=100_000, max_images=100, fill="alone")
    [row] = pack([sample], tokenizer, config, "v2", random.Random(0)).rows
    messages = []
    for images, asked, answered in turns:
        messages += [says("user", *range(images), asked), says("assistant", answered)]
    found = read(*messages[:-1])
    ids = conversation_ids(found.exchanges, tokenizer)
    assert ids == row.ids[: len(ids)]
    answer = [*tokenizer.encode(turns[-1][2], begin=False), tokenizer.eos_id]
    assert row.ids[len(ids) :] == answer, "what is left of the row is the answer, which was learned"
    assert len(found.images) == len(sample.images)


texts = st.lists(st.sampled_from(SPELLED), max_size=6).map("".join)
contents = st.one_of(texts, st.none(), st.lists(st.one_of(texts, st.integers(0, 9)), max_size=5))


@given(st.lists(st.tuples(st.sampled_from(["system", "developer", "user", "assistant"]), contents), max_size=6))
@example([("user", ["<im", "age>", 1, "<image>", "<|endofchunk|>"])])
@example([("system", "<image>"), ("user", ["<", 1, ">"]), ("assistant", "</s><image>"), ("user", "<image>")])
def test_every_image_is_seen_at_its_mark_and_no_text_is_taken_for_one(tokenizer: Tokenizer, given_ones: Any) -> None:
    messages = [
        says(role, *content) if isinstance(content, list) else {"role": role, "content": content}
        for role, content in given_ones
    ]
    try:
        found = read(*messages)
    except ApiError as error:
        assert error.status == 400 and error.param and error.param.startswith("messages")
        return
    ids = conversation_ids(found.exchanges, tokenizer)
    assert ids.count(tokenizer.image_id) == ids.count(tokenizer.end_of_chunk_id) == len(found.images)
    wanted = [f"data:{one}" for role, content in given_ones for one in content or "" if isinstance(one, int)]
    assert [image.url for image in found.images] == wanted, "in the order in which they were sent"
    assert [one.images for one in found.exchanges] == [one.prompt.count(IMAGE_MARK) for one in found.exchanges]
    ends = {*tokenizer.special_ids} - {tokenizer.image_id, tokenizer.end_of_chunk_id, tokenizer.eos_id}
    assert not ends & set(ids) and ids.count(tokenizer.eos_id) == len(found.exchanges) - 1


@given(st.text())
def test_what_is_special_is_written_with_parentheses_and_all_else_stays(text: str) -> None:
    assume("<" not in text)
    assert plain(text) == text


def test_each_side_says_its_messages_in_one_turn() -> None:
    talk = [says("user", "One."), says("user", "Two."), says("assistant", "A."), says("assistant", "B.")]
    found = read(*talk, says("user", "Three."))
    assert found.exchanges[0].prompt == f"{SYSTEM}\n### Human: One.\nTwo.\n### Assistant: "
    assert found.exchanges[0].target == "A.\nB."
    assert found.exchanges[1].prompt == "\n### Human: Three.\n### Assistant: "
    assert prompts(says("user", 1), says("user", "What?")) == [
        "\n### Human: <image><|endofchunk|>What?\n### Assistant: "
    ], "as training shows it"


def test_the_system_speaks_behind_the_trained_sentence_and_later_within_a_turn() -> None:
    talk = [says("system", "Be brief. "), says("developer", "", "Be kind."), says("user", "Hi")]
    assert read(*talk).exchanges[0].prompt == f"{SYSTEM} Be brief. Be kind.\n### Human: Hi\n### Assistant: "
    later = [says("user", "Hi"), says("assistant", "Hello"), says("system", "Now rhyme."), says("user", "Go on")]
    assert prompts(*later)[1] == "\n### Human: Now rhyme.\nGo on\n### Assistant: "


def test_images_stand_where_they_were_put_unless_no_text_follows_them() -> None:
    mark = "<image><|endofchunk|>"
    assert prompts(says("user", "First ", 1, " then ", 2, " done.")) == [
        f"\n### Human: First {mark} then {mark} done.\n### Assistant: "
    ]
    assert prompts(says("user", "What are these?", 1, 2)) == [
        f"\n### Human: {mark}{mark}What are these?\n### Assistant: "
    ]
    assert prompts(says("user", "A", 1, "B", 2)) == [f"\n### Human: A{mark}B{mark}\n### Assistant: "]


def test_what_is_no_conversation_is_refused_where_it_goes_wrong() -> None:
    assert refused() == ("invalid_value", "messages")
    assert refused(says("system", "Hi")) == ("invalid_value", "messages")
    assert refused(says("user", "Hi"), says("assistant", "Hi")) == ("invalid_value", "messages")
    assert refused(says("assistant", "Hi"), says("user", "Hi")) == ("invalid_value", "messages.0.role")
    assert refused(says("user", " ")) == ("invalid_value", "messages.0.content")
    assert refused(says("system", 1), says("user", "Hi")) == ("invalid_value", "messages.0.content")
    assert refused(says("user", "Hi"), {"role": "user", "content": None}) == (
        "missing_required_parameter",
        "messages.1.content",
    )


def test_an_empty_answer_was_an_answer_too(tokenizer: Tokenizer) -> None:
    found = read(says("user", "Hi"), {"role": "assistant", "content": None}, says("user", "Well?"))
    assert conversation_ids(found.exchanges, tokenizer).count(tokenizer.eos_id) == 1


def test_half_a_letter_is_refused_though_no_json_can_hold_it() -> None:
    broken = Message.model_construct(role="user", content="\ud800")
    with pytest.raises(ApiError) as caught:
        read_conversation([broken], LimitsConfig())
    assert caught.value.param == "messages.0.content"


def test_limits_are_named() -> None:
    talk = [says("user", 1, 2, "abc"), says("assistant", "abc"), says("user", "abc")]
    assert read(*talk, images=2, messages=3, text_characters=9)
    for limits in ({"images": 1}, {"messages": 2}, {"text_characters": 8}):
        assert refused(*talk, **limits) == ("limit_exceeded", "messages")
