"""A model's answers are checked before they are used."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from polite_flamingo.endpoints.answers import (
    Unfinished,
    declines,
    ending,
    faults,
    first_choice,
    says_nothing,
    without_reasoning,
)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("A dog lies on the grass.", []),
        ("42", []),
        ("👍", []),
        ("=", []),
        ("", ["empty"]),
        (" \n\t\u200b\ufeff", ["empty"]),
        ("“…”", ["empty"]),
        (Unfinished("A dog lies on the", "length"), ["cut"]),
        (Unfinished("", "length"), ["empty", "cut"]),
        (Unfinished("A dog", "content_filter"), ["filtered"]),
        ("A dog.<|im_end|>\n<|im_start|>user", ["leaked"]),
        ("A dog.</s>", ["leaked"]),
        ("A dog.<｜end▁of▁sentence｜>", ["leaked"]),
        ("A dog.\n### Human: And the cat?", ["leaked"]),
        ("Assistant: A dog.", ["leaked"]),
        ("A dog. [/INST]", ["leaked"]),
        ("A dog. Human: And the cat? Assistant: On the roof.", ["leaked"]),
        ("assistant\n\nA dog.", ["leaked"]),
        ("A dog.[|endofturn|]", ["leaked"]),
        ("[TOOL_CALLS]A dog.", ["leaked"]),
        ("[PAD][PAD]", ["leaked"]),
        ("\ufffd\ufffd", ["empty"]),
        (Unfinished("A do", "error"), ["aborted"]),
        ("The user: a dog. The assistant is human.", []),
        ("An assistant", []),
        ("I'm sorry, but I can't see the picture.", ["declined"]),
        ("I’m really sorry, but as a model I am unable to help.", ["declined"]),
        ("As an AI language model, I have no eyes.", ["declined"]),
        ("I cannot assist with that request.", ["declined"]),
        ("Sorry for the delay: it is red.", []),
        ("The dog cannot see the cat.", []),
    ],
)
def test_what_is_wrong_with_an_answer(answer: str, wrong: list[str]) -> None:
    assert faults(answer) == wrong


def test_what_the_question_holds_is_no_fault_of_the_answer() -> None:
    assert faults("It ends with <|im_end|>.", ["Which token ends ChatML, <|IM_END|> or </s>?"]) == []
    assert faults("It ends with </s>.", ["Which token ends ChatML?"]) == ["leaked"]
    assert faults("I'm sorry, but I can't do that.", ["", "I am sorry, I cannot do that."]) == []
    assert not declines("I can help with that.")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A dog, I think.</think>\n\nA dog.", "A dog."),
        ("  <THINKING>\nhm\n</THINKING> A dog.", "A dog."),
        ("A dog? Yes.\n</think>\nA dog.", "A dog."),
        ("<think>A dog, or is it", ""),
        ("<think></think>A dog.", "A dog."),
        ("[THINK]A dog, I think.[/THINK]A dog.", "A dog."),
        ("<seed:think>A dog?</seed:think>A dog.", "A dog."),
        (" A dog. ", " A dog. "),
        ("Write <think> and </think> around it.", "Write <think> and </think> around it."),
    ],
)
def test_reasoning_is_no_part_of_the_answer(text: str, answer: str) -> None:
    assert without_reasoning(text) == answer
    cut = without_reasoning(Unfinished(text, "length"))
    assert isinstance(cut, Unfinished) and cut == answer, "it stays cut"


def choice(finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": finish, "message": message}]}


def test_the_first_choice_of_a_server_is_read_with_its_ending() -> None:
    assert first_choice(choice(content="red")) == "red"
    assert first_choice({"choices": [{"text": "red"}]}) == "red", "a server may not say why it ended"
    assert not isinstance(first_choice(choice(None, content="red")), Unfinished)
    for finish in ("length", "content_filter"):
        found = first_choice(choice(finish, content="red"))
        assert isinstance(found, Unfinished) and (found, found.why) == ("red", finish)
        found = first_choice(choice(finish, content=None))
        assert isinstance(found, Unfinished) and says_nothing(found)
    assert first_choice(choice(content=None, reasoning_content="It may be red")) == ""
    assert first_choice(choice(content=None, refusal="I can't help with that.")) == "I can't help with that."
    for broken in ({}, {"choices": []}, choice(content=None), choice(content=5), choice(text="red")):
        with pytest.raises((LookupError, TypeError)):
            first_choice(broken)


@pytest.mark.parametrize(
    ("finish", "why"),
    [("MAX_TOKENS", "length"), ("model_length", "length"), ("SAFETY", "content_filter"), ("abort", "error"),
     ("error", "error"), ("end_turn", ""), ("eos", "")],
)  # fmt: skip
def test_servers_have_other_names_for_an_early_end(finish: str, why: str) -> None:
    assert getattr(first_choice(choice(finish, content="red")), "why", "") == why


def test_an_answer_in_parts_is_read_and_an_error_in_the_place_of_one_is_quoted() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "red"}]
    assert first_choice(choice(content=parts)) == "red"
    with pytest.raises(LookupError, match="it says 'the model is loading'"):
        first_choice({"error": {"message": "the model is loading"}})
    with pytest.raises(LookupError, match="no choices"):
        first_choice({"choices": None})


def test_an_unfinished_text_is_a_text_and_stays_unfinished() -> None:
    cut = Unfinished("A dog", "length")
    assert cut == "A dog" and f"{cut}!" == "A dog!"
    for same in (pickle.loads(pickle.dumps(cut)), copy.deepcopy(cut)):
        assert isinstance(same, Unfinished) and (same, same.why) == (cut, "length")
    assert type(ending("A dog", "stop")) is str and type(ending("A dog", None)) is str
    with pytest.raises(ValueError, match="length, content_filter"):
        Unfinished("A dog", "stop")
