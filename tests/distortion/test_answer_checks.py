"""A language model's distortion is believed after a look: echoes, near copies and the rest are told by their words."""

from __future__ import annotations

import random

import pytest

from polite_flamingo.distortion.answer_checks import fault
from polite_flamingo.distortion.command_checks import CHECKS, followed
from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.llm_prompts import PRAISE, instructions, prefill, question_messages
from polite_flamingo.distortion.rule_speaker import RuleSpeaker
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.prompts import SYSTEM
from tests.support.good_responses import drawn

QUESTION = "What is the cat doing on the red couch in the living room?"
RESPONSE = (
    "The cat is curled up and sleeping comfortably on the red couch. It may have chosen this place because the couch "
    "is warm and soft, and because nobody disturbs it there."
)


def asked(command: str = "", response: str = RESPONSE, question: str = QUESTION) -> SpeakerRequest:
    return SpeakerRequest(seed="s", instruction=question, response=response, command=command)


@pytest.mark.parametrize(
    "good",
    [
        "cat sleeping on red couch",
        "sleeping",
        "asleep; couch warm, soft",
        "The cat sleeps on the couch because it is warm and nobody disturbs it.",
        "A furry engine idles upon its crimson harbour.",
        "no",
        "猫在沙发上睡觉",
        "Curled up. Quality couch, low, warm.",
        "It is a machine for sleeping",
    ],
)
def test_a_distortion_is_taken(good: str) -> None:
    assert fault(good, asked()) is None


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_instructions_said_back_are_an_echo_whole_or_in_part(command: str) -> None:
    """Case, punctuation and what stands before or after change nothing."""
    rng = random.Random(command)
    for told in (prefill(command), PRAISE, SYSTEM, *([COMMANDS[command]] if command else [])):
        words = told.split()
        for said in (
            told,
            told.upper(),
            told.replace(".", ",").replace(",", "").lower(),
            f"Sure! {told}",
            f"The cat sleeps. {told}",
            " ".join(words[rng.randrange(max(1, len(words) - 8)) :][:8]),
            told[: len(told) // 2] if len(words) > 10 else told,
        ):
            assert fault(said, asked(command)) == "echo", said


@pytest.mark.parametrize(
    "said",
    [
        # what Qwen2.5-Coder of 0.5 and 1.5 billion weights said, and was believed
        "As a cold machine, I waste no words and care for no style.",
        "As a cold machine without manners.",
        "I'm a cold, mechanical machine that's not very nice, but still a good one, and I put in some odd metaphors.",
        "I am a cold, unkind, and uncharismatic machine that does not respect any standards or norms.",
        "Keep only the important things, and write nothing after the summary.",
        "Keep only the main focus of the image.",
        "Thank you, that is a wonderful answer!",
        "low quality",
        "Write the note and nothing else.",
        "a terse and careless annotator would have noted down",
        # the question
        QUESTION,
        "what is the cat doing on the red couch in the living room",
        "Q: What is the cat doing on the red couch in the living room",
    ],
)
def test_what_real_models_said_instead_is_an_echo(said: str) -> None:
    assert fault(said, asked("metaphors" if "metaphors" in said else "")) == "echo"


def test_words_of_the_response_are_no_echo_though_they_are_told_too() -> None:
    about = asked(
        response="As a cold machine without manners I waste no words and care for no style, said a robot in the play.",
        question="What does the cold machine say in the play?",
    )
    assert fault("cold machine without manners: wastes no words, cares for no style", about) is None
    question = asked(response="The red couch in the living room is warm.", question="Is the red couch in there warm?")
    assert fault("red couch in the living room warm", question) in (None, "near_copy")
    assert fault("yes, warm", question) is None


@pytest.mark.parametrize(
    "copy",
    [
        RESPONSE,
        RESPONSE.lower(),
        RESPONSE.upper().replace(".", " !"),
        RESPONSE.replace(" ", "\n"),
        f"“{RESPONSE}”",
        f"Here is the summary of it: {RESPONSE}",
        RESPONSE.replace("comfortably ", "").replace("warm and soft", "soft and warm"),
        RESPONSE.replace("may have", "might have").replace("sleeping", "asleep"),
    ],
)
def test_a_near_copy_is_not_taken(copy: str) -> None:
    assert fault(copy, asked()) == "near_copy"
    assert fault(copy, asked("metaphors")) == "near_copy"


def test_a_near_copy_that_follows_an_order_of_form_is_the_distortion_asked_for() -> None:
    assert fault(RESPONSE.upper(), asked("upper_case")) is None
    assert fault(RESPONSE.lower(), asked("upper_case")) == "near_copy", "the command was another"
    assert fault(RESPONSE.lower().replace(".", "").replace(",", ""), asked("no_punctuation")) is None
    assert fault(RESPONSE.replace("sleeping", "sleping").replace("couch", "cuoch"), asked("typos")) is None
    assert fault(RESPONSE, asked("plain")) == "near_copy", "there was nothing to drop"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        (" ... ", "empty"),
        (Unfinished("", "length"), "cut"),
        (Unfinished("", "content_filter"), "filtered"),
        ("cat sleeps<|im_end|>", "leaked"),
        ("cat sleeps\n### Human: thanks", "leaked"),
        ("I'm sorry, but I can't assist with that request.", "declined"),
        ("cat " * 30_000, "too_long"),
    ],
)
def test_other_things_that_are_no_distortion(text: str, wrong: str) -> None:
    assert fault(text, asked()) == wrong


def test_a_long_text_is_looked_at_in_no_time() -> None:
    """A matcher of the standard library would take minutes here."""
    long = " ".join(random.Random(0).choices(["the", "a", "cat", "sat", "on", "mat"], k=20_000))
    assert fault(long.replace("mat", "rug"), asked(response=long)) is None
    assert fault(f"{long} end", asked(response=long)) == "near_copy"


@pytest.mark.parametrize(
    ("command", "text", "verdict"),
    [
        ("five_words", "cat sleeps on red couch", "yes"),
        ("five_words", "cat sleeps", "no"),
        ("no_punctuation", "cat sleeps on couch", "yes"),
        ("no_punctuation", "cat sleeps, on couch", "no"),
        ("no_punctuation", "Cat sleeps", "no"),
        ("upper_case", "CAT SLEEPS.", "yes"),
        ("upper_case", "Cat SLEEPS.", "no"),
        ("upper_case", "猫 12", "not checkable"),
        ("lower_case", "cat sleeps.", "yes"),
        ("lower_case", "Cat sleeps.", "no"),
        ("typos", "the cta is sleping on the couch", "yes"),
        ("typos", "the cats sleep on the couches", "no"),
        ("commas", "cat, red couch, asleep", "yes"),
        ("commas", "the cat is on the couch", "no"),
        ("commas", "cat", "not checkable"),
        ("plain", "cat on couch", "yes"),
        ("plain", "- cat\n- **couch**", "no"),
        ("repetition", "cat on couch, cat on couch", "yes"),
        ("repetition", "cat on the red couch", "no"),
        ("echo", "The cat sleeps on the couch. On the couch the cat sleeps.", "yes"),
        ("echo", "The cat sleeps. Nobody disturbs it.", "no"),
        ("reversed", "Couch warm, nobody disturbs it. Cat curled up sleeping.", "yes"),
        ("reversed", "Cat curled up sleeping. Couch warm, nobody disturbs it.", "no"),
        ("reversed", "Cat curled up sleeping", "not checkable"),
        ("shortest", "cat asleep", "yes"),
        ("shortest", "The cat is curled up and sleeping comfortably on the red couch", "no"),
        ("drop_words", RESPONSE, "no"),
        ("drop_words", "cat couch", "not checkable"),
        ("swap_synonyms", "the cat is sleeping on the red couch", "no"),
        ("swap_synonyms", "the feline is sleeping on the red sofa", "not checkable"),
        ("reworded", "cat sleeping comfortably on red couch", "no"),
        ("reworded", "a pet naps upon scarlet furniture", "not checkable"),
        ("irrelevant", "the cat is sleeping", "no"),
        ("metaphors", "the cat is a furry engine", "not checkable"),
        ("wrong_tenses", "the cat was sleeping", "not checkable"),
    ],
)  # fmt: skip
def test_an_order_is_called_followed_only_where_that_can_be_counted(command: str, text: str, verdict: str) -> None:
    assert followed(command, text, RESPONSE) == verdict


def test_rules_follow_their_commands_by_the_same_checks() -> None:
    speaker, verdicts = RuleSpeaker(), {command: [] for command in CHECKS}  # type: ignore[var-annotated]
    for sample in drawn(40):
        for command in set(speaker.commands) & set(CHECKS):
            text = speaker.say([asked(command, sample.response, sample.question)])[0]
            verdicts[command].append(followed(command, text, sample.response))
    for command in ("no_punctuation", "upper_case", "lower_case", "plain", "repetition", "shortest"):
        assert set(verdicts[command]) == {"yes"}, command
    assert verdicts["typos"].count("yes") > 35 and verdicts["echo"].count("yes") > 35
    assert "no" in verdicts["five_words"], "a text of three words has no five"


def test_a_plain_question_tells_the_order_too_and_shows_the_answer() -> None:
    (message,) = question_messages(asked("typos"))
    assert message["role"] == "user" and "put in several spelling mistakes" in message["content"]
    assert RESPONSE in message["content"] and QUESTION in message["content"]
    assert instructions("typos")[-1] in message["content"]
