"""Good responses become pairs: every row one pair or one reason, drawn by its key, in the shares that are asked for."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig, EndpointConfig, LocalConfig, RetrievalConfig, Shares
from polite_flamingo.distortion.llm_prompts import prefill
from polite_flamingo.distortion.pairs import distort, single_turns
from polite_flamingo.distortion.retrieval import CaptionIndex, index_name, write_index
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.distortion.summary import count
from polite_flamingo.endpoints.answers import Unfinished
from polite_flamingo.sample import BadSample, Quarantined, Sample
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import read_shard, write_shard
from tests.support.good_responses import PICTURE, drawn, good

SPOKEN = Shares(llm=1, text=0, captions_and_boxes=0)
AUGMENTED = Shares(llm=0, text=1, captions_and_boxes=0)


class Parrot:
    """Says what it is told to; remembers what it was asked."""

    name = "parrot"
    commands = tuple(COMMANDS)

    def __init__(self, *answers: str | BadSample):
        self.answers = answers
        self.asked: list[SpeakerRequest] = []

    def say(self, requests: Sequence[SpeakerRequest]) -> list[str | BadSample]:
        self.asked += requests
        return [self.answers[min(len(self.asked), len(self.answers)) - 1] for _ in requests]


def kind(row: object) -> str:
    assert isinstance(row, Sample), row
    return str(row.provenance["distortion"]["kind"])


def test_a_pair_is_the_distorted_text_and_the_original(tmp_path: Path) -> None:
    samples = [good(99, ("<image>Who?", "That is Anna, of course, who lives here."), images=1), *drawn(30)]
    rows = distort(samples, DistortionConfig())
    assert len(rows) == 31
    for before, after in zip(samples, rows, strict=True):
        assert isinstance(after, Sample)
        assert after.rewritten == before.response != after.response
        assert (after.key, after.images, after.instruction) == (before.key, before.images, before.instruction)
        assert after.provenance["distortion"]["draws"] >= 1
    write_shard(tmp_path / "pairs.tar", [row for row in rows if isinstance(row, Sample)])
    assert read_shard(tmp_path / "pairs.tar") == rows, "what a pair says of itself survives the shard"


def test_a_pair_hangs_on_its_key_and_the_seed_and_on_nothing_else() -> None:
    samples, config = drawn(60), DistortionConfig()
    rows = distort(samples, config)
    assert distort(samples[::-1], config) == rows[::-1]
    assert [distort([sample], config)[0] for sample in samples[:10]] == rows[:10]
    assert distort(samples, replace(config, seed=1)) != rows


def test_kinds_and_commands_come_in_the_shares_that_are_asked_for() -> None:
    """1,500 keys: within four standard deviations of the paper's counts, and of one half."""
    rows = distort([good(n) for n in range(1500)], DistortionConfig())
    facts = [row.provenance["distortion"] for row in rows if isinstance(row, Sample)]
    assert len(facts) == 1500
    instead = Counter(fact["instead_of"]["kind"] for fact in facts if "instead_of" in fact)
    assert 42 < instead["captions_and_boxes"] < 104, "of 300 thousand, 14 thousand; none can be had here"
    spoken = [fact for fact in facts if fact["kind"] == "llm"]
    assert abs(len(spoken) / 1500 - 209 / 286) < 0.046
    commands = Counter(fact["command"] for fact in spoken)
    assert abs(commands.pop("") / len(spoken) - 0.5) < 0.062
    assert len(commands) == 19 and "metaphors" not in commands and min(commands.values()) > 5
    assert {fact["speaker"] for fact in spoken} == {"rules"}


def test_a_model_is_given_any_of_the_24_commands() -> None:
    parrot = Parrot("short")
    distort([good(n) for n in range(800)], DistortionConfig(shares=SPOKEN, command_share=1), parrot)
    assert {request.command for request in parrot.asked} == set(COMMANDS)
    parrot = Parrot("short")
    distort([good(n) for n in range(50)], DistortionConfig(shares=SPOKEN, command_share=0), parrot)
    assert {request.command for request in parrot.asked} == {""}


def test_what_is_empty_or_unchanged_is_drawn_again_and_counted() -> None:
    sample = good(1)
    parrot = Parrot("", sample.response, " ! ", "  fine thing")
    (row,) = distort([sample], DistortionConfig(shares=SPOKEN), parrot)
    assert isinstance(row, Sample) and row.response == "  fine thing" and row.provenance["distortion"]["draws"] == 4
    assert len({request.seed for request in parrot.asked}) == 4

    (row,) = distort([sample], DistortionConfig(shares=SPOKEN, draws=3), Parrot(""))
    assert isinstance(row, Quarantined) and row.reason == "not_distorted" and "3 draws of llm" in row.detail


def test_an_echo_is_drawn_again_counted_and_never_taken() -> None:
    """What a real model said in 12 of 14 pairs. Each draw has a seed of its own; the counts are whole."""
    echo, copy = prefill(), good(1).response.upper()
    config = DistortionConfig(shares=SPOKEN, command_share=0)
    parrot = Parrot(echo, copy, "I'm sorry, but I can't help with that.", "fine thing, liked")
    (row,) = distort([good(1)], config, parrot)
    assert isinstance(row, Sample) and row.response == "fine thing, liked"
    facts = row.provenance["distortion"]
    assert facts["draws"] == 4 and facts["not_taken"] == {"declined": 1, "echo": 1, "near_copy": 1}
    assert len({request.seed for request in parrot.asked}) == 4

    cut = Unfinished("", "length")
    rows = distort([good(1), good(2)], config, Parrot(echo, cut, cut, echo, echo))
    assert [row.reason for row in rows if isinstance(row, Quarantined)] == ["not_distorted"] * 2
    assert isinstance(rows[0], Quarantined)
    assert rows[0].detail.startswith(f"{rows[0].key}: 4 draws of llm, none taken: 3 echo, 1 cut; the last: 'As a cold")
    counted = count([row, *rows])
    assert counted["not_taken"] == {"cut": 2, "declined": 1, "echo": 7, "near_copy": 1}
    assert counted["draws"] == {"4": 1}


def test_an_order_that_was_not_followed_is_noted_and_counted() -> None:
    samples = [good(n) for n in range(60)]
    rows = distort(samples, DistortionConfig(shares=SPOKEN, command_share=1), Parrot("Fine thing, it is liked."))
    facts = [row.provenance["distortion"] for row in rows if isinstance(row, Sample)]
    assert len(facts) == 60 and all(fact["draws"] == 1 for fact in facts)
    verdicts = {fact["command"]: fact["followed"] for fact in facts}
    assert verdicts["five_words"] == "yes" and verdicts["upper_case"] == "no"
    assert verdicts["wrong_tenses"] == "not checkable"
    counted = count([row for row in rows if isinstance(row, Sample)])
    assert counted["followed"].keys() == {"yes", "no", "not checkable"} and sum(counted["followed"].values()) == 60
    assert (
        sum(counted["not_followed"].values()) == counted["followed"]["no"]
        and "five_words" not in counted["not_followed"]
    )


def test_a_text_that_grew_too_long_is_drawn_again() -> None:
    (row,) = distort([good(1)], DistortionConfig(shares=SPOKEN), Parrot("word " * 20_001, "short"))
    assert isinstance(row, Sample) and row.response == "short" and row.provenance["distortion"]["draws"] == 2
    words = " ".join(f"w{n:05}" for n in range(14_000))
    longest = [good(n, ("What?", words)) for n in range(12)]
    rows = distort(longest, DistortionConfig(shares=SPOKEN, command_share=1))
    assert all(isinstance(row, Sample) and row.validate() for row in rows)


def test_what_augmentation_cannot_change_is_left_to_the_speaker() -> None:
    one_letter = good(1, ("Which letter?", "A"))
    rows = distort([one_letter], DistortionConfig(shares=AUGMENTED))
    assert isinstance(rows[0], Quarantined) and rows[0].reason == "not_distorted"
    (row,) = distort([one_letter], DistortionConfig(shares=Shares(llm=1e-9, text=1, captions_and_boxes=0)), Parrot("b"))
    assert kind(row) == "llm" and isinstance(row, Sample)
    assert row.provenance["distortion"]["instead_of"]["kind"] == "text"


def test_a_speaker_may_refuse_a_row_and_never_writes_an_image_mark() -> None:
    (row,) = distort([good(1)], DistortionConfig(shares=SPOKEN), Parrot(BadSample("text_too_long", "too long for it")))
    assert isinstance(row, Quarantined) and (row.reason, row.detail) == ("text_too_long", "too long for it")
    (row,) = distort([good(1)], DistortionConfig(shares=SPOKEN), Parrot("see <image>"))
    assert isinstance(row, Sample) and row.response == "see (image)"


def test_dialogues_become_exchanges_with_the_images_that_they_show() -> None:
    chat = good(
        7, ("<image>Who?", "Anna is."), ("And now?", "Ben is."), ("<image><image>Both?", "Yes, both are."), images=3
    )
    first = single_turns([chat], "first")
    assert [row.key for row in first] == [f"{chat.key}/turn0"]
    rows = single_turns([chat, good(8)], "all")
    assert [row.key for row in rows] == [*(f"{chat.key}/turn{n}" for n in range(3)), good(8).key]
    assert [len(row.images) for row in rows if isinstance(row, Sample)] == [1, 0, 2, 0]
    for row in rows:
        assert isinstance(row, Sample) and row.validate()
    made = distort([chat], DistortionConfig(turns="all"))
    assert [row.rewritten for row in made if isinstance(row, Sample)] == ["Anna is.", "Ben is.", "Yes, both are."]


def test_what_is_no_good_response_gets_a_reason_and_its_place() -> None:
    broken = Quarantined(key="x", shard="s.tar", index=3, reason="bad_json", detail="cut")
    rows = distort([broken, replace(good(1), rewritten="Done."), good(2), good(3, ("a", " "))], DistortionConfig())
    assert rows[0] is broken and isinstance(rows[2], Sample)
    assert [row.reason for row in rows if isinstance(row, Quarantined)] == ["bad_json", "unsupported", "empty_response"]


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=5), st.integers(0, 3))
def test_every_row_becomes_a_pair_or_a_reason(texts: list[str], seed: int) -> None:
    samples = [good(n, ("What?", text)) for n, text in enumerate(texts)]
    rows = distort(samples, DistortionConfig(seed=seed))
    assert [row.key for row in rows] == [sample.key for sample in samples]
    for row in rows:
        if isinstance(row, Sample):
            assert row.response.split() != (row.rewritten or "").split() and row.validate()


def test_a_turn_that_is_not_to_be_learned_makes_no_pair_and_is_named() -> None:
    talk = good(0, ("Who?", "That is Anna, who lives here."), ("Why?", "Because."), ("Where?", "In the old house."))
    talk = replace(talk, turns=(talk.turns[0], replace(talk.turns[1], learned=False), talk.turns[2]))
    rows = distort([talk], DistortionConfig(turns="all"))
    assert [row.key for row in rows] == [f"{talk.key}/turn{n}" for n in range(3)]
    assert [isinstance(row, Sample) for row in rows] == [True, False, True]
    assert isinstance(rows[1], Quarantined) and rows[1].reason == "excluded"


BOX = {"image_id": 442786, "category_id": 18, "bbox": [16, 12, 32, 24]}


@pytest.fixture
def coco(tmp_path: Path) -> tuple[str, str]:
    """Captions and instances of one image of 64 x 48 pixels, as COCO writes them."""
    images = [{"id": 442786, "file_name": "COCO_train2014_000000442786.jpg", "width": 64, "height": 48}, "broken"]
    said = [{"image_id": 442786, "id": n, "caption": text} for n, text in enumerate(["A dog. ", "Dog on grass"])]
    captions, instances = tmp_path / "captions.json", tmp_path / "instances.json"
    captions.write_text(json.dumps({"images": images, "annotations": said}))
    categories = [{"id": 18, "name": "dog"}]
    instances.write_text(json.dumps({"images": images, "annotations": [BOX], "categories": categories}))
    return str(captions), str(instances)


def test_captions_and_boxes_are_joined_by_the_number_of_the_image(coco: tuple[str, str]) -> None:
    config = DistortionConfig(
        shares=Shares(llm=1e-9, text=0, captions_and_boxes=1), retrieval=RetrievalConfig(annotations=coco)
    )
    described = ("<image>Describe it.", "A brown dog lies on the green grass.")
    named = {"images": ["000000442786.jpg"]}
    rows = distort(
        [
            replace(good(0, described, images=1, dataset="llava_detail"), meta=named),
            replace(good(1, described, images=1, dataset="llava_conversation"), meta=named),
            replace(good(2, described, images=1, dataset="llava_detail"), meta={"images": ["000000000009.jpg"]}),
            good(3, described, images=1, dataset="llava_detail"),
        ],
        config,
    )
    assert isinstance(rows[0], Sample)
    assert rows[0].response == (
        "A dog.\nDog on grass\nThe positions of objects, as normalised (x1, y1, x2, y2):\n"
        "dog: [0.250, 0.250, 0.750, 0.750]"
    )
    assert rows[0].provenance["distortion"] == {
        "kind": "captions_and_boxes", "image_id": "442786", "captions": 2, "boxes": 1,
        "boxes_outside": 0, "boxes_shown": 1,
    }  # fmt: skip
    reasons = [row.provenance["distortion"]["instead_of"]["reason"] for row in rows[1:] if isinstance(row, Sample)]
    assert reasons == [
        "no_description_of_one_image",
        "image_not_annotated",
        "image_without_number",
    ]
    assert [kind(row) for row in rows] == ["captions_and_boxes", "llm", "llm", "llm"]


def test_an_index_in_a_bucket_is_written_once_and_copied_by_whoever_looks_something_up(
    coco: tuple[str, str], tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = replace(good(0, images=1), meta={"images": ["000000442786.jpg"]})
    local = location(tmp_path / "index")
    assert write_index(coco, local)["images"] == 1
    there = location(bucket) / index_name(coco)
    write_index(coco, there)
    assert write_index(coco, there) == {}, "it is there already"
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    index = CaptionIndex(there)
    assert list((tmp_path / "scratch").iterdir()) == [], "the copy has no name, so that a killed worker leaves none"
    assert index.response(sample) == CaptionIndex(local).response(sample)


def test_missing_annotations_are_named(tmp_path: Path) -> None:
    config = DistortionConfig(retrieval=RetrievalConfig(annotations=(str(tmp_path / "no.json"),)))
    with pytest.raises(ValueError, match=r"no\.json is not a file"):
        distort([good(0)], config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Shares(llm=-1), "negative"),
        (lambda: DistortionConfig(shares=Shares(llm=0, text=0, captions_and_boxes=1)), "cannot be distorted"),
        (lambda: DistortionConfig(command_share=1.5), "from 0 to 1"),
        (lambda: DistortionConfig(speaker="local"), "distortion.local.model"),
        (lambda: DistortionConfig(speaker="endpoint"), "distortion.endpoint.model"),
        (lambda: DistortionConfig(draws=0), "at least 1"),
        (lambda: DistortionConfig(top_p=0), "top_p"),
        (lambda: EndpointConfig(url="file:///etc/passwd"), "http"),
        (lambda: EndpointConfig(timeout=0), "timeout"),
        (lambda: EndpointConfig(attempts=0), "at least 1"),
        (lambda: LocalConfig(batch=0), "at least 1"),
    ],
)
def test_an_impossible_configuration_is_refused_with_a_remedy(wrong: object, message: str) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_picture_is_passed_on_as_it_is() -> None:
    assert distort([good(0, ("<image>x", "A fine day it is."), images=1)], DistortionConfig())[0].images == (PICTURE,)  # type: ignore[union-attr]
