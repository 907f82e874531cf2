"""The judge on a real socket: what it is asked, what its answers mean, and what they cost when they mean nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.conversations import parts_of
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.filters.judge import AXES, Judge, JudgeEndpoint, marks
from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.location import location
from polite_flamingo.usage import Usage
from tests.filters.test_clipscore import picture
from tests.support.fake_filter_servers import FakeJudge, serving

GOOD = {"relevance": 5, "correctness": 4, "visual_dependency": 3, "formatting": 2}
SCORES = {
    "words": 9, "characters": 50, "same_text": False, "rouge_l": 0.5, "repetition": 0.0, "reward_raw": -1.0,
    "reward": 1.0, "nli": [0.0, 1.0, 2.0],
}  # fmt: skip


def says(text: str, images: list[Any]) -> str:
    assert text.startswith("Question: What is ") and "\nAnswer: " in text
    assert ("\nAnnotation: " in text) == ("Answer: red" not in text)
    if "nonsense" in text:
        return "I would give it a high mark."
    if "words" in text:
        return "Relevance: 5\n**Correctness**: 4\nVisual dependency - 3\nformatting = 2"
    return json.dumps(GOOD)


@pytest.fixture
def server() -> Iterator[FakeJudge]:
    with serving(FakeJudge(says)) as found:
        assert isinstance(found, FakeJudge)
        yield found


def judge(server: FakeJudge, **settings: Any) -> Judge:
    quick: dict[str, Any] = {"pause": 0.0, "longest_pause": 0.01, "attempts": 2, "patience": 0.0}
    return Judge(JudgeEndpoint(**{"urls": (server.url,), "model": "qwen", **quick, **settings}))


def sample(rewritten: str, images: int = 1) -> Sample:
    turn = Turn(instruction="<image>" * images + "What is this?", response="red")
    shown = tuple(Image(extension="png", data=picture(n)) for n in range(images))
    return Sample(key="a/b/c", dataset="a", task="vqa", turns=(turn,), images=shown, rewritten=rewritten)


def test_each_text_is_asked_about_once_with_its_pictures_and_bound_by_a_schema(server: FakeJudge) -> None:
    usage = Usage()
    assert judge(server).score([sample("It is red."), sample("A red one.", images=2)], usage) == [GOOD, GOOD]
    used = {"requests": 2, "prompt_tokens": 100, "generated_tokens": 18, "images": 3}
    assert usage == {f"judge.{name}": count for name, count in used.items()}
    body = server.bodies[0]
    assert body["temperature"] == 0.0 and set(body["response_format"]["json_schema"]["schema"]["required"]) == {*AXES}
    assert "you see the picture" in body["messages"][0]["content"]
    assert sorted(
        sum(part["type"] == "image_url" for part in one["messages"][1]["content"]) for one in server.bodies
    ) == [1, 2]


def test_a_language_model_judges_without_pictures_and_texts_without_any_need_none(server: FakeJudge) -> None:
    blind = judge(server, pictures=False, structured=False)
    without = {axis: mark for axis, mark in GOOD.items() if axis != "visual_dependency"}
    assert blind.score([sample("It is red."), sample("It is red.", images=0)]) == [GOOD, without]
    assert all(isinstance(body["messages"][1]["content"], str) for body in server.bodies)
    assert "response_format" not in server.bodies[0] and "picture" in server.bodies[0]["messages"][0]["content"]


def test_marks_that_are_paid_for_are_not_asked_again(server: FakeJudge, tmp_path: Path) -> None:
    rows, kept = [sample("It is red."), sample("nonsense"), sample("[400]")], location(tmp_path) / "answers"
    first, again = Usage(), Usage()
    with AnswerStore(kept, "s0") as answers:
        marked = judge(server).score(rows, first, answers)
    with AnswerStore(kept, "s0") as answers:
        assert judge(server).score(rows, again, answers) == marked
    assert len(server.bodies) == 3 + 1, "only what the server refuses, which cost nothing"
    assert again["judge.answers_reused"] == 2 and again == first + Usage({"judge.answers_reused": 2})


def test_a_turn_is_judged_with_the_turns_before_it(server: FakeJudge) -> None:
    turns = (
        Turn(instruction="<image>What is that?", response="cross", rewritten="It is a cross."),
        Turn(instruction="Is it?", response="context", learned=False),
        Turn(instruction="What is its colour?", response="red", rewritten="It is red."),
    )
    [_, last] = parts_of(dataclasses.replace(sample(""), turns=turns, rewritten=None)).values()
    server.says = lambda text, images: json.dumps(GOOD)
    assert judge(server, pictures=False).score([last]) == [GOOD]
    assert server.bodies[0]["messages"][1]["content"] == (
        "The turns before:\nUser: What is that?\nAssistant: It is a cross.\nUser: Is it?\nAssistant: context\n\n"
        "Question: What is its colour?\nAnnotation: red\nAnswer: It is red."
    )


def test_an_annotation_that_was_not_rewritten_is_not_compared_with_itself(server: FakeJudge) -> None:
    assert judge(server).score([sample("red")]) == [GOOD]


def test_what_has_no_marks_says_why(server: FakeJudge) -> None:
    broken = dataclasses.replace(sample("It is red."), images=(Image(extension="png", data=b"none"),))
    rows = [sample("nonsense"), sample("words"), sample("[400]"), broken]
    found = judge(server).score(rows)
    assert found == [
        "no marks in the answer", GOOD, "the server refuses (HTTP 400)", "the picture cannot be read (corrupt_image)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(GOOD),
        f"Here you are:\n```json\n{json.dumps(GOOD, indent=1)}\n```",
        '{"relevance": "5", "correctness": 4.0, "visual_dependency": 3, "formatting": 2, "why": "fine"}',
        "relevance: 5, correctness: 4, visual_dependency: 3, formatting: 2",
    ],
)
def test_marks_are_read_leniently(answer: str) -> None:
    assert marks(answer) == GOOD


@pytest.mark.parametrize(
    "answer",
    [
        *("", "{", "5 4 3 2", '{"relevance": 5}'),
        *(json.dumps({**GOOD, "formatting": odd}) for odd in (6, 0, True, 2.5, "good", None)),
        "relevance: 5, correctness: 4, visual_dependency: 3, formatting: 2.5",
    ],
)
def test_what_is_no_mark_is_none(answer: str) -> None:
    assert marks(answer) is None


def test_a_judge_rejects_only_by_a_threshold_and_a_missing_mark_only_then() -> None:
    def reasons(scores: dict[str, Any], **limits: float) -> list[str]:
        one = dataclasses.replace(sample("It is red."), scores={**SCORES, **scores})
        return [verdict.reason for verdict in apply_thresholds(one, Thresholds(**limits)) if not verdict.keep]

    marked = {f"judge_{axis}": mark for axis, mark in GOOD.items()}
    missing = dict.fromkeys(marked) | {"not_scored": {"judge": "no marks in the answer"}}
    assert reasons(marked) == reasons(missing) == reasons({}) == []
    assert reasons(marked, judge_formatting=3, judge_relevance=5) == ["low_formatting"]
    assert reasons(missing, judge_formatting=3) == ["unscored"]
    assert reasons({}, judge_formatting=3) == []


def test_a_server_of_another_kind_is_noticed_before_work_begins(server: FakeJudge) -> None:
    assert judge(server, urls=(server.url, "http://127.0.0.1:9/v1")).try_out() != []
    server.says = lambda text, images: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(EndpointDown):
        judge(server).try_out()
