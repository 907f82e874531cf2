"""Several answers to each prompt, from a checkpoint and from a server: seeded, resumed, and typed where they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.candidates import Candidate
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.endpoints.answers import ending
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.preference.policies import EndpointPolicy, FlamingoPolicy, checked
from polite_flamingo.preference.sampling import (
    Answered,
    PolicyEndpoint,
    SamplingSection,
    count_answers,
    prompt_of,
    requests_of,
    with_answers,
)
from polite_flamingo.sample import BadSample, Image, Sample, Turn
from polite_flamingo.storage.location import location
from polite_flamingo.usage import Usage
from tests.support.fake_chat import MODEL, FakeChat, fake_chat
from tests.support.made_samples import make_sample, picture
from tests.support.tiny_flamingo import Tiny

QUICK: dict[str, Any] = {"pause": 0.0, "longest_pause": 0.01, "attempts": 2, "patience": 0.0}

CHAT = Sample(
    key="talks/train/1", dataset="talks", task="dialogue", rewritten=None,
    turns=(
        Turn(instruction="<image>What is it?", response="cat", rewritten="It is a cat."),
        Turn(instruction="<image>And here?", response="dog"),
        Turn(instruction="Thanks.", response="Bye.", learned=False),
    ),
    images=(picture(1), picture(2)),
)  # fmt: skip


def section(server: FakeChat, endpoint: dict[str, Any] | None = None, **settings: Any) -> SamplingSection:
    served = PolicyEndpoint(**{"urls": (server.url,), "model": MODEL, **QUICK, **(endpoint or {})})
    return SamplingSection(**{"kind": "endpoint", "endpoint": served, **settings})


def sampled(config: SamplingSection, policy: Any, sample: Sample, store: Any = None) -> Sample | BadSample:
    prompt = prompt_of(sample)
    found = policy.answers(requests_of(prompt, config.answers), Usage(), store)
    return with_answers(prompt, found, config.least, {"model": config.model})


def answers_of(found: Sample | BadSample) -> list[Candidate]:
    assert isinstance(found, Sample), found
    return list(found.candidates)


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with fake_chat() as found:
        found.answer = lambda text: f"About {text}, number {len(found.bodies)}"
        yield found


def test_a_prompt_ends_at_its_last_learned_turn_and_what_comes_before_is_polite_context() -> None:
    prompt = prompt_of(CHAT)
    assert [(turn.response, turn.learned, turn.rewritten) for turn in prompt.turns] == [
        ("It is a cat.", False, None), ("dog", True, None),
    ]  # fmt: skip
    assert len(prompt.images) == 2 and prompt_of(prompt) == prompt
    with pytest.raises(BadSample, match="excluded"):
        prompt_of(replace(CHAT, turns=CHAT.turns[2:], images=()))


def test_a_server_is_asked_once_an_answer_each_time_with_another_seed(server: FakeChat) -> None:
    config = section(server, answers=4, temperature=1.2)
    found = answers_of(sampled(config, EndpointPolicy(config), make_sample(3, 1)))
    assert [one.number for one in found] == [0, 1, 2, 3] and {one.model for one in found} == {MODEL}
    assert all(one.tokens == len(one.text.split()) and not one.cut for one in found)
    assert len({body["seed"] for body in server.bodies}) == 4 and {body["temperature"] for body in server.bodies} == {
        1.2
    }
    seeds = sorted(body["seed"] for body in server.bodies)
    sampled(config, EndpointPolicy(config), make_sample(3, 1))
    assert sorted(body["seed"] for body in server.bodies[4:]) == seeds, "a retry asks the same"


def test_a_conversation_is_sent_turn_by_turn_with_each_picture_in_its_place(server: FakeChat) -> None:
    config = section(server, answers=2)
    sampled(config, EndpointPolicy(config), CHAT)
    roles = [(one["role"], one["content"]) for one in server.bodies[0]["messages"]]
    assert [role for role, _ in roles] == ["user", "assistant", "user"] and roles[1][1] == "It is a cat."
    assert [part["type"] for part in roles[2][1]] == ["image_url", "text"]
    blind = section(server, {"pictures": False}, answers=2)
    sampled(blind, EndpointPolicy(blind), CHAT)
    assert server.bodies[-1]["messages"][0] == {"role": "user", "content": "What is it?"}


def test_servers_that_know_no_seed_still_give_each_answer_of_its_own_and_none_is_paid_twice(
    server: FakeChat, tmp_path: Path
) -> None:
    config = section(server, {"extra": {"seed": None}}, answers=3)
    for _ in range(2):
        with AnswerStore(location(tmp_path) / "answers", "s0") as store:
            found = answers_of(sampled(config, EndpointPolicy(config), make_sample(1, 0), store))
        assert len({one.text for one in found}) == 3
    assert len(server.bodies) == 3 and all("seed" not in body for body in server.bodies)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("empty", "answering_failed"), ("filtered", "refused"), ("400", "answering_failed"), ("500", "answering_failed")],
)
def test_a_prompt_without_answers_says_why(word: str, reason: str, server: FakeChat) -> None:
    config = section(server, answers=3)
    turn = Turn(instruction=f"Say something. [{word}]", response="something")
    found = sampled(config, EndpointPolicy(config), replace(make_sample(1, 0), turns=(turn,)))
    assert isinstance(found, BadSample) and found.reason == reason and found.detail.startswith("0 of 3 answers; ")


def test_an_answer_that_is_cut_is_kept_and_marked_and_a_few_failed_ones_are_noted(server: FakeChat) -> None:
    config = section(server, answers=4, least=2)
    turn = Turn(instruction="Say something. [cut]", response="something")
    cut = sampled(config, EndpointPolicy(config), replace(make_sample(1, 0), turns=(turn,)))
    assert all(one.cut and len(one.text) <= 20 for one in answers_of(cut))
    said = iter(["fine", "", "fine", "good"])
    server.answer = lambda text: next(said)
    some = sampled(replace(config), EndpointPolicy(section(server, {"concurrency": 1}, answers=4)), make_sample(2, 0))
    assert [one.number for one in answers_of(some)] == [0, 2, 3]
    assert isinstance(some, Sample) and isinstance(cut, Sample)
    assert some.provenance["sampling"]["failed"].keys() == {"1"}
    counts = count_answers([some, cut])
    assert counts["answers"] | {"tokens": 0} == {
        "given": 7,
        "cut": 4,
        "tokens": 0,
        "repeated": 1 + len(cut.candidates) - 1,
    }
    assert counts["failed"] == {"answering_failed": 1}


def test_a_picture_that_cannot_be_read_fails_its_prompt_alone(server: FakeChat) -> None:
    config = section(server, answers=2)
    broken = replace(make_sample(1, 1), images=(Image(extension="png", data=b"none"),))
    found = sampled(config, EndpointPolicy(config), broken)
    assert isinstance(found, BadSample) and found.reason == "corrupt_image"


def test_reasoning_is_no_answer() -> None:
    request = make_sample(1, 0)
    assert checked(request, "It is red.", "m", 3) == Answered(text="It is red.", model="m", tokens=3)
    cut = checked(request, ending("", "length"), "m", 9)
    assert isinstance(cut, BadSample) and cut.reason == "answer_cut"


def test_a_second_model_adds_its_answers_with_further_numbers(server: FakeChat) -> None:
    config = section(server, answers=2)
    first = sampled(config, EndpointPolicy(config), make_sample(1, 0))
    assert isinstance(first, Sample)
    both = answers_of(sampled(config, EndpointPolicy(config), first))
    assert [one.number for one in both] == [0, 1, 2, 3] and len({body["seed"] for body in server.bodies}) == 4


def test_a_server_that_is_not_there_is_noticed_before_work_begins(server: FakeChat) -> None:
    assert EndpointPolicy(section(server)).try_out() == [f"{MODEL} at {server.url} answers"]
    with pytest.raises(EndpointDown):
        EndpointPolicy(section(server, {"model": "another"})).try_out()


def test_a_checkpoint_gives_the_same_answers_again_whatever_is_asked_beside(tiny: Tiny) -> None:
    config = SamplingSection(
        flamingo=tiny.config, answers=3, temperature=1.5, max_tokens=12, device="cpu", least=1, threads=1
    )
    policy = FlamingoPolicy(config)
    samples = [make_sample(1, 1), make_sample(2, 0), CHAT]
    together = [requests_of(prompt_of(one), 3) for one in samples]
    usage = Usage()
    found = policy.answers([request for requests in together for request in requests], usage)
    again = [policy.answers(requests, Usage()) for requests in together]
    assert found == [one for answers in again for one in answers]
    assert usage["requests"] == 9 and usage["images"] == 3 * (1 + 2)
    texts = [[one.text for one in answers if isinstance(one, Answered)] for answers in again]
    assert all(len(set(one)) > 1 for one in texts), "each answer has a seed of its own"
    assert all(isinstance(one, Answered) and one.tokens > 0 and one.cut for one in found), "of twelve tokens each"
    another = FlamingoPolicy(replace(config, seed=1)).answers(together[0], Usage())
    assert another != again[0]


@pytest.mark.parametrize(
    "wrong",
    [{"answers": 1}, {"least": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"max_tokens": 0}, {"kind": "flamingo"}],
)
def test_impossible_settings_are_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^sampling: "):
        SamplingSection(**{"kind": "endpoint", "endpoint": PolicyEndpoint(model="m"), **wrong})


def test_the_name_of_a_checkpoint_is_its_folder_or_its_last_part(tiny: Tiny) -> None:
    assert SamplingSection(flamingo=tiny.config).model == tiny.config.checkpoints[0]
    assert SamplingSection(flamingo=replace(tiny.config, lora="zoo:polite_flamingo")).model == "zoo:polite_flamingo"
    assert Counter(one.key for one in requests_of(prompt_of(CHAT), 2)) == Counter(
        [f"{CHAT.key}/answer0", f"{CHAT.key}/answer1"]
    )
