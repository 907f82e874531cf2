"""Rows of packed samples: what holds for every row, and what happens to samples that do not fit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo import hub
from polite_flamingo.flamingo.model.attention import image_numbers
from polite_flamingo.flamingo.model.tokenization import TransformersTokenizer
from polite_flamingo.packing.chat_turns import ResponseChoice, exchanges
from polite_flamingo.packing.pack import Packed, PackedRow, PackingConfig, pack
from polite_flamingo.prompts import SYSTEM, chat_prompt, rewriting_prompt
from polite_flamingo.sample import BadSample, Image, Sample, Turn

TOKENIZER = TransformersTokenizer(str(hub.resolve("zoo:flamingo")))
WORDS = ["a", "red", "circle", "is", "left", "of", "the", "blue", "square", "two", "\n", "?", "Ünïcödé", "東"]


def one(
    number: int, instruction: str = "Which is it?", response: str = "a red circle", images: int = 0, **more: object
) -> Sample:
    return Sample(
        key=f"made/train/{number}",
        dataset="made",
        task="vqa" if images else "text",
        turns=(Turn(instruction="<image>" * images + instruction, response=response),),
        images=tuple(Image(extension="png", data=f"{number}.{place}".encode()) for place in range(images)),
        **more,
    )


@st.composite
def conversations(draw: st.DrawFn) -> list[Sample]:
    """Text, pictures and dialogues; some longer than a window of 128, some with more images than a row of four."""
    samples = []
    for number in range(draw(st.integers(1, 14))):
        turns, images = [], 0
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            shown = draw(st.sampled_from([0, 0, 1, 1, 2, 3]))
            images += shown
            asked = draw(st.lists(st.sampled_from([*WORDS, "Assistant"]), max_size=8))
            places = sorted(draw(st.lists(st.integers(0, len(asked)), min_size=shown, max_size=shown)), reverse=True)
            for place in places:
                asked.insert(place, "<image>")
            said = draw(st.lists(st.sampled_from(WORDS), max_size=draw(st.sampled_from([5, 20, 90]))))
            turns.append(Turn(instruction=" ".join(asked), response="so " + " ".join(said)))
        pictures = tuple(Image(extension="png", data=f"{number}.{place}".encode()) for place in range(images))
        samples.append(
            Sample(key=f"made/train/{number}", dataset="made", task="dialogue", turns=tuple(turns), images=pictures)
        )
    return samples


CONFIGS = st.builds(
    PackingConfig,
    window=st.sampled_from([64, 128, 300]),
    max_images=st.sampled_from([0, 1, 4, 10]),
    fill=st.sampled_from(["random", "best_fit", "alone"]),
    join=st.sampled_from(["multi_turn", "isolated"]),
    bos=st.sampled_from(["first", "every"]),
    group_by_length=st.booleans(),
)
MODELS = st.sampled_from(["v1", "v2"])


def packed(samples: list[Sample], config: PackingConfig, attention="v2", seed: int = 0, **more) -> Packed:
    return pack(samples, TOKENIZER, config, attention, random.Random(seed), **more)


def parts(row: PackedRow) -> list[list[int]]:
    """Return the places of each sample in the row."""
    found: list[list[int]] = [[] for _ in row.keys]
    for place, number in enumerate(row.sample_index):
        found[number].append(place)
    return found


@settings(deadline=None, max_examples=40)
@given(samples=conversations(), config=CONFIGS, attention=MODELS, seed=st.integers(0, 3))
def test_every_sample_is_in_one_row_or_skipped_with_a_reason(samples, config, attention, seed):
    made = packed(samples, config, attention, seed)
    there = [key for row in made.rows for key in row.keys]
    assert sorted(there + [one.key for one in made.skipped]) == sorted(sample.key for sample in samples)
    assert set(made.cut) <= set(there)
    for skipped in made.skipped:
        sample = samples[int(skipped.key.split("/")[-1])]
        if len(sample.images) > config.max_images:
            assert skipped.reason == "too_many_images"
        else:
            first = chat_prompt(sample.instruction)
            assert skipped.reason == "text_too_long" and len(TOKENIZER.encode(first)) >= config.window
    assert made == packed(samples, config, attention, seed), "a pure function of samples and seed"


@settings(deadline=None, max_examples=40)
@given(samples=conversations(), config=CONFIGS, attention=MODELS)
def test_rows_hold_what_they_may_and_images_lie_where_their_marks_are(samples, config, attention):
    by_key = {sample.key: sample for sample in samples}
    made = packed(samples, config, attention)
    for row in made.rows:
        assert len(row.ids) == len(row.loss_mask) == len(row.image_numbers) == len(row.sample_index) <= config.window
        assert row.ids.count(TOKENIZER.image_id) == len(row.images) <= config.max_images
        assert row.sample_index == sorted(row.sample_index) and set(row.sample_index) == set(range(len(row.keys)))
        wanted = []
        for places, key in zip(parts(row), row.keys, strict=True):
            images = [image.data for image in by_key[key].images]
            shown = [row.ids[place] for place in places].count(TOKENIZER.image_id)
            assert shown == len(images) or key in made.cut
            wanted += images[:shown]
        assert row.images == wanted
        assert config.fill != "alone" or len(row.keys) == 1


@settings(deadline=None, max_examples=40)
@given(samples=conversations(), config=CONFIGS, attention=MODELS)
def test_exactly_responses_and_their_ends_are_learned(samples, config, attention):
    by_key = {sample.key: sample for sample in samples}
    made = packed(samples, config, attention)
    for row in made.rows:
        for number, (places, key) in enumerate(zip(parts(row), row.keys, strict=True)):
            learned = [row.ids[place] for place in places if row.loss_mask[place]]
            ids = [row.ids[place] for place in places]
            wanted, whole = [], []
            begins = number == 0 or config.join == "isolated"
            for turn_number, turn in enumerate(by_key[key].turns):
                opens = begins and turn_number == 0
                every = config.bos == "every"
                target = [*TOKENIZER.encode(turn.response, begin=every), TOKENIZER.eos_id]
                prompt = TOKENIZER.encode(chat_prompt(turn.instruction, first=opens), begin=every or opens)
                wanted += target
                whole += prompt + target
            if key in made.cut:
                assert learned and learned == wanted[: len(learned)] and ids == whole[: len(ids)]
                assert len(whole) > config.window - len(TOKENIZER.encode(SYSTEM)), "only what is too long is cut"
            else:
                assert (learned, ids) == (wanted, whole)


@settings(deadline=None, max_examples=40)
@given(samples=conversations(), config=CONFIGS, attention=MODELS)
def test_a_token_attends_in_the_row_what_it_attends_in_its_sample_alone(samples, config, attention):
    single = [sample for sample in samples if len(sample.turns) == 1 or attention == "v2"]
    made = packed(single, config, attention)
    for row in made.rows:
        images = 0
        for places in parts(row):
            is_image = torch.tensor([[row.ids[place] == TOKENIZER.image_id for place in places]])
            alone = image_numbers(is_image, attention)[0].tolist()
            assert [row.image_numbers[place] for place in places] == [
                number + images if number else 0 for number in alone
            ]
            images += int(is_image.sum())


@settings(deadline=None, max_examples=40)
@given(samples=conversations(), config=CONFIGS)
def test_no_token_attends_an_image_of_another_sample_or_of_a_later_turn(samples, config):
    for attention in ("v1", "v2"):
        for row in packed(samples, config, attention).rows:
            images = 0
            for places in parts(row):
                shown = sum(row.ids[place] == TOKENIZER.image_id for place in places)
                assert {row.image_numbers[place] for place in places} <= {0, *range(images + 1, images + shown + 1)}
                images += shown
            seen, before = 0, 0
            for token, learned, media, following in zip(
                row.ids, row.loss_mask, row.image_numbers, [*row.loss_mask[1:], 0], strict=True
            ):
                seen += token == TOKENIZER.image_id
                if learned:
                    assert media <= seen, "a response sees no image that is shown after it"
                    assert attention == "v2" or media == 0, "text after the last image of its turn sees none in v1"
                if learned and not following:
                    before = seen
                assert media == 0 or attention == "v2" or media > before, "and v1 text none of an earlier turn"


def test_the_strategies_reach_what_the_properties_are_about():
    """Otherwise the properties might hold only because a case is missing."""
    seen = set()

    @settings(deadline=None, max_examples=300, database=None, derandomize=True)
    @given(samples=conversations(), config=CONFIGS)
    def look(samples, config):
        made = packed(samples, config)
        seen.update(one.reason for one in made.skipped)
        seen.update({"cut"} if made.cut else ())
        for row in made.rows:
            seen.update({f"{config.fill} {config.join}"} if len(row.keys) > 2 else ())
            starts = [places[0] for places in parts(row)]
            seen.update({"two with images"} if sum(row.image_numbers[at] > 1 for at in starts[1:]) else ())
            seen.update({"full of images"} if 0 < config.max_images == len(row.images) else ())
            seen.update({"full"} if len(row.ids) == config.window else ())

    look()
    shared = {f"{fill} {join}" for fill in ("random", "best_fit") for join in ("multi_turn", "isolated")}
    assert {"too_many_images", "text_too_long", "cut", "full of images", "full"} | shared <= seen


def test_image_numbers_of_a_row_by_hand():
    samples = [one(0), one(1, images=2), one(2), one(3, images=1)]
    for attention in ("v1", "v2"):
        (row,) = packed(samples, PackingConfig(window=1024), attention).rows
        first = 1
        for key, places in zip(row.keys, parts(row), strict=True):
            marks = [place for place in places if row.ids[place] == TOKENIZER.image_id]
            expected = set()
            for number, mark in enumerate(marks):
                assert row.image_numbers[mark] == first + number
                expected.add(first + number)
            response = {row.image_numbers[place] for place in places if row.loss_mask[place]}
            assert response == ({max(expected)} if attention == "v2" and expected else {0}), key
            first += len(marks)
        assert first == 4


def test_later_samples_have_no_system_message_unless_they_are_isolated():
    samples = [one(number) for number in range(5)]
    for join, count in (("multi_turn", 1), ("isolated", 5)):
        (row,) = packed(samples, PackingConfig(join=join)).rows
        assert TOKENIZER.decode(row.ids).count(SYSTEM) == count
        assert row.ids.count(TOKENIZER.begin_ids[0]) == count
        assert row.ids.count(TOKENIZER.eos_id) == 5


def test_isolated_samples_are_in_a_row_as_they_are_alone():
    samples = [one(number, images=number % 3, response="two " * number + "left") for number in range(6)]
    alone = {row.keys[0]: row for row in packed(samples, PackingConfig(fill="alone")).rows}
    (row,) = packed(samples, PackingConfig(fill="best_fit", join="isolated")).rows
    for key, places in zip(row.keys, parts(row), strict=True):
        assert [row.ids[place] for place in places] == alone[key].ids
        assert [row.loss_mask[place] for place in places] == alone[key].loss_mask


def test_the_turns_of_a_dialogue_stay_together_and_see_its_image():
    talk = (
        Turn(instruction="<image>What is it?", response="a circle"),
        Turn(instruction="Which colour?", response="red"),
    )
    dialogue = Sample(
        key="made/train/d", dataset="made", task="dialogue", turns=talk, images=(Image(extension="png", data=b"d"),)
    )
    (row,) = packed([one(0, images=1), dialogue, one(1, images=1)], PackingConfig()).rows
    places = parts(row)[row.keys.index("made/train/d")]
    text = TOKENIZER.decode([row.ids[place] for place in places])
    assert text.index("a circle") < text.index("Which colour?") < text.index("Assistant: red")
    number = row.images.index(b"d") + 1
    assert {row.image_numbers[place] for place in places if row.loss_mask[place]} == {number}, "of both turns"


def talk(*turns: Turn) -> Sample:
    return Sample(key="made/train/d", dataset="made", task="text", turns=turns)


@pytest.mark.parametrize("join", ["multi_turn", "isolated"])
def test_a_turn_that_is_not_learned_is_read_and_not_supervised(join):
    said = Turn(instruction="Which colour?", response="a blue circle", learned=False)
    dialogue = talk(
        Turn(instruction="What is it?", response="a circle"), said, Turn(instruction="Sure?", response="red")
    )
    samples, config = [one(0), dialogue, one(1)], PackingConfig(join=join)
    (row,) = packed(samples, config).rows
    places = parts(row)[row.keys.index(dialogue.key)]
    learned = TOKENIZER.decode([row.ids[place] for place in places if row.loss_mask[place]])
    assert "a circle" in learned and "red" in learned and "blue" not in learned
    labels = [row.ids[place] if row.loss_mask[place] else -100 for place in places]
    masked = [*TOKENIZER.encode("a blue circle", begin=False), TOKENIZER.eos_id]
    start = next(n for n, _ in enumerate(places) if [row.ids[p] for p in places[n : n + len(masked)]] == masked)
    assert labels[start : start + len(masked)] == [-100] * len(masked), "its end is not learned either"
    (as_if,) = packed([one(0), replace(dialogue, turns=(*dialogue.turns[:1], replace(said, learned=True),
                                                        *dialogue.turns[2:])), one(1)], config).rows  # fmt: skip
    assert as_if.ids == row.ids and as_if.image_numbers == row.image_numbers, "a mask changes nothing but the loss"
    assert sum(as_if.loss_mask) - sum(row.loss_mask) == len(masked)


def test_a_sample_that_teaches_nothing_is_skipped_and_says_why():
    mute = Turn(instruction="Which?", response="a circle " * 60, learned=False)
    late = talk(mute, Turn(instruction="And now?", response="red"))
    made = packed([talk(mute), one(1)], PackingConfig(window=64))
    assert [(one.reason, one.key) for one in made.skipped] == [("excluded", "made/train/d")]
    made = packed([late, one(1)], PackingConfig(window=64))
    assert made.reasons() == {"text_too_long": 1} and "turn 1, the first to learn" in made.skipped[0].detail


def test_a_sample_longer_than_the_window_keeps_its_prompt_and_loses_the_end_of_its_response():
    long = one(0, response="red circle " * 200)
    made = packed([long, one(1)], PackingConfig(window=128))
    assert made.cut == [long.key] and not made.skipped
    row = next(row for row in made.rows if long.key in row.keys)
    prompt = TOKENIZER.encode(chat_prompt(long.instruction))
    assert len(row.ids) == 128 and row.ids[: len(prompt)] == prompt
    assert row.loss_mask == [False] * len(prompt) + [True] * (128 - len(prompt))
    assert TOKENIZER.eos_id not in row.ids, "a text cut off must not teach to end there"


def test_a_dialogue_longer_than_the_window_loses_its_last_turns_and_their_images():
    turns = tuple(Turn(instruction="<image>What is it?", response="a circle " * 20) for _ in range(4))
    images = tuple(Image(extension="png", data=bytes([place])) for place in b"abcd")
    dialogue = Sample(key="made/train/d", dataset="made", task="dialogue", turns=turns, images=images)
    made = packed([dialogue], PackingConfig(window=160))
    (row,) = made.rows
    assert made.cut == ["made/train/d"]
    assert row.images == [b"a", b"b"] and row.ids.count(TOKENIZER.image_id) == 2
    assert row.loss_mask[-1], "no prompt without its response at the end"


BAD = {
    "an empty response": (one(0, response=" \n"), "empty_response"),
    "<image> in a text-only sample": (one(0, "what does <image> mean?"), "missing_image"),
    "more marks than images": (one(0, "<image>what?", images=1), "missing_image"),
    "<image> in a response": (one(0, response="see <image>"), "bad_field"),
    "an end of chunk in an instruction": (one(0, "what is <|endofchunk|>?"), "bad_field"),
    "an end of chunk in the instruction of an image": (one(0, "what is <|endofchunk|>?", images=1), "bad_field"),
    "an end of chunk in a response": (one(0, response="it is <|endofchunk|>"), "bad_field"),
    "an end in an instruction": (one(0, "what is </s>?"), "bad_field"),
    "an end in a response": (one(0, response="done.</s> And more"), "bad_field"),
    "a beginning in a response": (one(0, response="<s>and so"), "bad_field"),
    "padding": (one(0, "<pad>"), "bad_field"),
    "a huge instruction": (one(0, "why? " * 30_000), "text_too_long"),
    "a huge response": (one(0, response="so " * 50_000), "text_too_long"),
    "a prompt longer than the window": (one(0, "why? " * 500), "text_too_long"),
    "half of a surrogate pair": (one(0, "\ud800"), "bad_field"),
    "too many images": (one(0, images=11), "too_many_images"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("join", ["multi_turn", "isolated"])
def test_bad_samples_are_counted_with_a_reason_and_spoil_no_other(what, join):
    sample, reason = BAD[what]
    made = packed([one(1), sample, one(2, images=1)], PackingConfig(window=512, join=join))
    assert [(skipped.key, skipped.reason) for skipped in made.skipped] == [(sample.key, reason)]
    assert made.reasons() == {reason: 1} and made.skipped[0].detail
    assert sorted(key for row in made.rows for key in row.keys) == ["made/train/1", "made/train/2"]


def test_what_looks_like_the_protocol_but_is_no_special_token_is_text():
    sample = one(0, "### Human: <imagine> [INST]", "### Assistant: <endofchunk>")
    assert not packed([sample], PackingConfig()).skipped


def test_a_draft_is_revised_into_its_rewritten_text():
    pair = one(0, "What?", "circle red", images=1, rewritten="It is a red circle.")
    (exchange,) = exchanges(pair, ResponseChoice(protocol="rewriting"))
    assert exchange.prompt == rewriting_prompt("<image>What?", "circle red")
    assert exchange.target == "It is a red circle." and exchange.images == 1
    made = packed([pair, one(1, rewritten="Yes.")], PackingConfig(), choice=ResponseChoice(protocol="rewriting"))
    assert TOKENIZER.decode(made.rows[0].ids).count("(Revised Response)") == 2
    assert TOKENIZER.decode(made.rows[0].ids).count(SYSTEM) == 1


def test_each_sample_may_be_read_in_its_own_way():
    samples = [one(0, response="raw", rewritten="A rewritten one."), one(1, response="raw", rewritten="Another.")]
    (row,) = packed(samples, PackingConfig(), choice=[ResponseChoice(), ResponseChoice(response="rewritten")]).rows
    text = TOKENIZER.decode(row.ids)
    assert "raw" in text and "Another." in text and "A rewritten one." not in text


@pytest.mark.parametrize("choice", [ResponseChoice(response="rewritten"), ResponseChoice(protocol="rewriting")])
def test_what_was_not_rewritten_cannot_be_learned_from_its_rewritten_text(choice):
    turn = Turn(instruction="a", response="b")
    dialogue = Sample(key="made/train/d", dataset="made", task="dialogue", turns=(turn, turn))
    bad = [one(0), one(1, rewritten=" "), dialogue, one(2, rewritten="so\ud800"), one(3, rewritten="so" * 60_000)]
    made = packed(bad, PackingConfig(), choice=choice)
    reasons = ["bad_field", "empty_response", "bad_field", "bad_field", "text_too_long"]
    assert [skipped.reason for skipped in made.skipped] == reasons


def test_a_conversation_is_learned_from_its_polite_texts_turn_by_turn():
    turns = (
        Turn(instruction="a", response="raw", rewritten="The first."),
        Turn(instruction="b", response="context", learned=False),
        Turn(instruction="c", response="raw", rewritten="The third."),
    )
    dialogue = Sample(key="made/train/d", dataset="made", task="dialogue", turns=turns)
    found = exchanges(dialogue, ResponseChoice(response="rewritten"))
    assert [(one.target, one.learned) for one in found] == [
        ("The first.", True), ("context", False), ("The third.", True),
    ]  # fmt: skip
    with pytest.raises(BadSample, match="3 turns; a rewriter learns single ones"):
        exchanges(dialogue, ResponseChoice(protocol="rewriting"))


def test_nothing_gives_nothing():
    made = packed([], PackingConfig())
    assert (made.rows, made.padding, made.tokens, made.trained) == ([], 0.0, 0, 0)


@pytest.mark.parametrize("wrong", [{"window": 1}, {"max_images": -1}])
def test_rows_that_could_hold_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="packing: "):
        PackingConfig(**wrong)
