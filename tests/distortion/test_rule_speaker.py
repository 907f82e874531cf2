"""The speaker without a model: notes on Shapes that say what the text says, other texts shortened, commands obeyed."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.distortion.command_rules import RULES, follow
from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.loading import load_speaker
from polite_flamingo.distortion.rule_speaker import RuleSpeaker
from polite_flamingo.distortion.shorten import key_words, shorten
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.sources.records.responses import BOXES_FOLLOW
from polite_flamingo.testbed.shapes.terse import terse
from polite_flamingo.testbed.zoo.pairs import Pair, random_pair

GOOD = (
    "Certainly! The image shows **two dogs** that are playing with a ball on the green grass, which suggests a warm "
    "day. In the background, there is a wooden fence. Please let me know if you have further questions!"
)


def said(response: str, command: str = "", seed: str = "s") -> str:
    return RuleSpeaker().say([SpeakerRequest(seed=seed, instruction="?", response=response, command=command)])[0]


def drawn(task: str, count: int = 60) -> list[Pair]:
    rng = random.Random(f"pairs {task}")
    return [random_pair(rng, task) for _ in range(count)]


@pytest.mark.parametrize("task", ["vqa", "vqa_rationale", "captioning", "classification", "change_captioning"])
def test_notes_on_shapes_have_the_form_of_the_raw_annotations(task: str) -> None:
    """Of most texts the exact annotation is among the ways in which they are noted, up to what was drawn."""
    exact = 0
    for pair in drawn(task):
        ways = {terse(pair.polite, random.Random(n)) for n in range(40)}
        assert None not in ways
        if task == "captioning":
            captions = pair.raw.split(f"\n{BOXES_FOLLOW}")[0]
            exact += any(way.split(f"\n{BOXES_FOLLOW}")[0] == captions for way in ways if way)
        elif task == "change_captioning":  # in any order, one or both of the sentences
            exact += any(set(way.split("\n")) <= set(pair.raw.split("\n")) for way in ways if way)
        else:
            exact += pair.raw in ways
    assert exact >= 55, f"{exact} of 60"


def test_boxes_are_noted_where_places_are_said_and_lie_there() -> None:
    for pair in drawn("captioning"):
        noted = terse(pair.polite, random.Random(1))
        assert noted is not None
        if BOXES_FOLLOW not in pair.raw:
            assert BOXES_FOLLOW not in noted
            continue
        found = re.findall(r"(\w+): \[([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+)\]", noted)
        true = re.findall(r"(\w+): \[([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+)\]", pair.raw)
        assert [one[0] for one in found] == [one[0] for one in true]
        for one, other in zip(found, true, strict=True):
            assert all(abs(float(a) - float(b)) < 0.2 for a, b in zip(one[1:], other[1:], strict=True))
            width, true_width = (float(box[3]) - float(box[1]) for box in (one, other))
            assert width == pytest.approx(true_width, abs=0.002), "the size is the one that is said"


def test_a_profile_names_who_notes_the_texts_of_its_world() -> None:
    tiny = DistortionConfig(note_taker="polite_flamingo.testbed.shapes.terse:terse")
    asked = SpeakerRequest(seed="s", instruction="?", response="Yes, there is a red circle in the image.")
    noted, shortened = (load_speaker(config).say([asked])[0] for config in (tiny, DistortionConfig()))
    assert str(noted).lower().removeprefix("answer: ").removeprefix("answer ").rstrip(".") == "yes"
    assert "red circle" in str(shortened), "nobody knows the text: it is shortened"
    with pytest.raises(ValueError, match=r"distortion.note_taker 'no_module:f' cannot be loaded .*MODULE:FUNC"):
        load_speaker(DistortionConfig(note_taker="no_module:f"))


def test_any_other_text_is_shortened() -> None:
    assert terse(GOOD, random.Random(0)) is None
    shorter = [said(GOOD, seed=str(n)) for n in range(50)]
    assert max(map(len, shorter)) < len(GOOD) * 0.7 and len(set(shorter)) > 5
    assert not any(re.search(r"certainly|please|\*\*", text, re.IGNORECASE) for text in shorter)
    assert sum("dogs" in text for text in shorter) == 50, "the first sentence carries the point"


def test_a_text_of_manners_only_or_of_another_language_leaves_something() -> None:
    assert said("Sure! Of course!")
    assert said("当然可以。图片中有两只狗在草地上玩球。背景是一道木栅栏。")
    assert said("Да, конечно. На картинке две собаки.")
    assert said("```python\nprint(1)\n```")


FOLLOWED = {
    "no_punctuation": lambda text: not re.search(r"[^\w\s]", text) and text == text.lower(),
    "upper_case": lambda text: text == text.upper(),
    "lower_case": lambda text: text == text.lower(),
    "repetition": lambda text: text.count("brown") in (2, 3),
    "commas": lambda text: text.split(", ") == ["red", "house", "big", "dog", "brown", "looks", "street"],
    "shortest": lambda text: text == "red house big",
    "five_words": lambda text: text == "red house big dog brown",
    "plain": lambda text: text == "The red house is big. A dog is brown. It looks to the street.",
    "reversed": lambda text: text == "It looks to the street.\nA dog is brown.\nThe red house is big.",
    "wrong_tenses": lambda text: "house was big" in text and "dog was brown" in text,
    "grammar_errors": lambda text: "house are big" in text and "An dog" in text.replace("an dog", "An dog"),
    "echo": lambda text: text.count("\n") == 2 and text.split("\n")[2].split(": ")[1] in text.lower().replace(".", ""),
    "irrelevant": lambda text: THREE in text and text.count("\n") == 2 and len(text) > len(THREE) + 10,
    "casual": lambda text: text == text.lower() or "I" not in text,
    "wordy": lambda text: len(text) > len(THREE) + 40 and "brown" in text,
    "rearranged": lambda text: sorted(text.split()) == sorted(THREE.split()) and text != THREE,
    "incoherent": lambda text: set(text.replace(".", "").split()) == set(THREE.replace(".", "").split()),
    "drop_words": lambda text: 0 < len(text.split()) < len(THREE.split()),
    "typos": lambda text: text != THREE and 0.8 < len(text) / len(THREE) < 1.2,
}
THREE = "The red house is big. A dog is brown.\nIt looks to the street."


@pytest.mark.parametrize("command", RULES)
def test_each_command_is_followed(command: str) -> None:
    for seed in range(5):
        text = follow(command, THREE, random.Random(seed))
        assert FOLLOWED[command](text), text


def test_the_rules_are_of_the_24_commands_and_none_is_given_that_has_no_rule() -> None:
    assert len(COMMANDS) == len(set(COMMANDS.values())) == 24
    assert set(RULES) < set(COMMANDS) and set(RuleSpeaker.commands) == set(RULES)
    with pytest.raises(KeyError):
        follow("metaphors", THREE, random.Random(0))


@pytest.mark.parametrize("command", RULES)
def test_commands_leave_boxes_alone(command: str) -> None:
    boxes = f"{BOXES_FOLLOW}\ndog: [0.123, 0.456, 0.789, 0.900]"
    assert follow(command, f"a brown dog on grass\n{boxes}", random.Random(3)).endswith(f"\n{boxes}")


TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(["a", "The dog.", "Yes, ", "\n", " ", "красный", "犬。", "\u202e", "🦩", "1. ", "**x**", '"', "…"]),
    max_size=40,
).map("".join)


@given(TEXTS, st.sampled_from(["", *RULES]), st.integers(0, 5))
def test_any_text_is_said_without_an_error_and_the_same_again(text: str, command: str, seed: int) -> None:
    once = said(text, command, str(seed))
    assert once == said(text, command, str(seed))
    if re.search(r"\w", text):
        assert shorten(text, random.Random(seed))


def test_misspelling_always_shows_where_there_is_a_word() -> None:
    for seed in range(200):
        assert follow("typos", "Answer: aaa", random.Random(seed)) != "Answer: aaa"
    assert follow("typos", "2", random.Random(0)) == "2"


def test_key_words_keep_their_order_and_are_never_none() -> None:
    assert key_words("There are 3.5 well-known dogs in the park's corner") == [
        "3.5",
        "well-known",
        "dogs",
        "park's",
        "corner",
    ]
    assert key_words("it is what it is") == ["it", "is", "what", "it", "is"]
    assert key_words("…") == []


def test_a_huge_text_is_said_in_no_time() -> None:
    assert said("One word follows another and then a third. " * 2300)
