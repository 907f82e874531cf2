"""The rewriter behind servers, against a real server with a fake model: what is asked, what becomes of each answer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.conversations import with_texts
from polite_flamingo.endpoints.answer_store import Answer, AnswerStore, forget, forget_finished
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.endpoints.responses import same_model
from polite_flamingo.rewriters.config import EndpointConfig, Example, PromptConfig
from polite_flamingo.rewriters.endpoint import EndpointRewriter
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample, Turn
from polite_flamingo.storage.location import Location, location
from polite_flamingo.usage import Usage
from tests.support.fake_chat import MODEL, POLITE, REFUSAL, FakeChat, fake_chat, said
from tests.support.patience import PATIENCE


@pytest.fixture
def chat() -> Iterator[FakeChat]:
    with fake_chat() as server:
        yield server


def config(server: FakeChat, **settings: Any) -> EndpointConfig:
    quick = {"timeout": PATIENCE, "pause": 0.0, "longest_pause": 0.02, "concurrency": 4, "attempts": 3}
    return EndpointConfig(urls=(server.url,), model=MODEL, **{**quick, **settings})


def picture(width: int = 60, height: int = 40, orientation: int = 1) -> Image:
    buffer = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.new("RGB", (width, height), "red").save(buffer, "JPEG", exif=exif)
    return Image(extension="jpg", data=buffer.getvalue())


def sample(response: str, number: int = 0, *, images: tuple[Image, ...] = (), task: str = "vqa") -> Sample:
    turn = Turn(instruction=IMAGE_MARK * len(images) + "What is it?", response=response)
    return Sample(key=f"d/s/{number}", dataset="d", task=task, turns=(turn,), images=images)


def rewrite(server: FakeChat, *samples: Sample, **settings: Any) -> list[Any]:
    found = EndpointRewriter(config(server, **settings)).rewrite(samples, Usage())
    return [texts[0] if len(texts) == 1 else texts for texts in found]


BAD_ANSWERS = {
    "[500]": ("rewriting_failed", "3 attempts: HTTP 500: the server says why"),
    "[html]": ("rewriting_failed", "3 attempts: the response is not JSON: '<html>busy</html>'"),
    "[half]": ("rewriting_failed", "3 attempts: "),
    "[prompt]": ("rewriting_failed", "the answer repeats the prompt"),
    "[empty]": ("rewriting_failed", "the answer is empty"),
    "[refusal]": ("refused", f"the model declines: {REFUSAL!r}"),
    "[100 kB]": ("text_too_long", "the answer has 100,004 characters"),
    "[cut]": ("answer_cut", "the answer ends at the limit of tokens"),
    "[filtered]": ("refused", "the server's filter withheld the answer"),
    "[no picture]": ("rewriting_failed", "HTTP 400: cannot load the image"),
}


@pytest.mark.parametrize("pictures", [True, False])
def test_each_answer_ends_in_the_right_place_and_the_counts_add_up(chat: FakeChat, pictures: bool) -> None:
    passing = ["a red circle", "late [429 x2]", "later [503 x3]", "broken once [500 x2]", "half once [half x2]"]
    samples = [sample(text, n, images=(picture(),)) for n, text in enumerate([*passing, *BAD_ANSWERS])]
    usage = Usage()
    rewriter = EndpointRewriter(config(chat, pictures=pictures))
    found = [texts[0] for texts in rewriter.rewrite(samples, usage)]
    assert found[:5] == [f"{POLITE}{text}." for text in passing]
    answered = len(passing) + 6 + (not pictures)
    for (word, (reason, detail)), one, text in zip(BAD_ANSWERS.items(), samples[5:], found[5:], strict=True):
        if word == "[no picture]" and not pictures:
            assert isinstance(text, str), "no picture is sent, so none is refused"
            continue
        assert isinstance(text, BadSample) and text.reason == reason and detail in text.detail, word
        assert text.detail.startswith(one.key) and "\n" not in text.detail
    assert (usage["requests"], usage["images"]) == (answered, answered * pictures)
    assert usage["prompt_tokens"] > usage["cached_tokens"] > 0 < usage["generated_tokens"]
    shown = sum(len(said(body)[1]) for body in chat.bodies)
    assert shown == len(chat.bodies) * pictures


def test_the_request_is_what_the_profile_says(chat: FakeChat) -> None:
    prompt = PromptConfig(
        system="Write {language}. {braces stay}",
        template="Task {task}: {instruction} / {annotation}",
        examples=(Example(instruction="Who?", annotation="Anna", polite="It is Anna."),),
        language="German",
    )
    extra = {"top_k": 5, "seed": None, "temperature": 0.5}
    asked = sample("{instruction} <image> {x}", images=(picture(),), task="captioning")
    rewrite(chat, asked, prompt=prompt, max_tokens=77, extra=extra)
    [body] = chat.bodies
    system, question, answer, real = body.pop("messages")
    assert body == {"model": MODEL, "max_tokens": 77, "temperature": 0.5, "top_p": 1.0, "top_k": 5}
    assert system == {"role": "system", "content": "Write German. {braces stay}"}
    assert question == {"role": "user", "content": "Task vqa: Who? / Anna"}
    assert answer == {"role": "assistant", "content": "It is Anna."}
    assert [part["type"] for part in real["content"]] == ["text", "image_url", "text"]
    assert real["content"][0]["text"] == "Task captioning:"
    assert real["content"][2]["text"] == "What is it? / {instruction} (image) {x}"


def test_a_text_only_model_is_told_so_and_sees_no_mark(chat: FakeChat) -> None:
    rewrite(chat, sample("red", images=(picture(),)), pictures=False)
    system, *_, last = chat.bodies[0]["messages"]
    assert "You cannot see the pictures" in system["content"]
    assert last["content"] == "Instruction: What is it?\nAnnotation: red"


def test_pictures_are_upright_and_no_larger_than_asked(chat: FakeChat) -> None:
    images = (picture(600, 200, orientation=6), picture(50, 40))
    rewrite(chat, sample("red", images=images), max_side=300)
    shown = said(chat.bodies[0])[1]
    assert [one.size for one in shown] == [(100, 300), (50, 40)]


def test_a_broken_picture_fails_its_sample_and_nothing_is_asked(chat: FakeChat) -> None:
    found = rewrite(chat, sample("a", images=(Image(extension="png", data=b"no picture"),)), sample("b", 1))
    assert isinstance(found[0], BadSample) and found[0].reason == "corrupt_image"
    assert found[1] == f"{POLITE}b." and len(chat.bodies) == 1


def test_a_sample_always_has_the_same_seed_and_others_have_others(chat: FakeChat) -> None:
    rewrite(chat, *(sample("a", n) for n in range(3)))
    first = sorted(body["seed"] for body in chat.bodies)
    rewrite(chat, *(sample("a", n) for n in range(3)))
    assert first == sorted(body["seed"] for body in chat.bodies[3:]) and len(set(first)) == 3
    rewrite(chat, sample("a"), seed=1)
    assert chat.bodies[-1]["seed"] not in first


def conversation(*responses: str, images: tuple[Image, ...] = (), unlearned: tuple[int, ...] = ()) -> Sample:
    turns = [
        Turn(
            instruction=IMAGE_MARK * (number < len(images)) + f"Question {number}?",
            response=response,
            learned=number not in unlearned,
        )
        for number, response in enumerate(responses)
    ]
    return Sample(key="d/s/c", dataset="d", task="dialogue", turns=tuple(turns), images=images)


def test_a_turn_sees_the_turns_before_as_they_were_rewritten(chat: FakeChat) -> None:
    one = conversation("a", "b [refusal]", "c", "d", images=(picture(), picture(30, 30)), unlearned=(2,))
    usage = Usage()
    [texts] = EndpointRewriter(config(chat)).rewrite([one], usage)
    assert [text if not isinstance(text, BadSample) else text.reason for text in texts] == (
        [f"{POLITE}a.", "refused", None, f"{POLITE}d."]
    )
    last = chat.bodies[-1]["messages"]
    start = len(last) - 7
    assert [message["role"] for message in last[start:]] == ["user", "assistant"] * 3 + ["user"]
    assert [message["content"] for message in last[start + 1 :: 2]] == [f"{POLITE}a.", "b [refusal]", "c"]
    for shorter, longer in zip(chat.bodies, chat.bodies[1:], strict=False):  # a server's prefix cache holds
        assert longer["messages"][: len(shorter["messages"])] == shorter["messages"]
    assert usage["requests"] == 3 and usage["images"] == 1 + 2 + 2
    joined = with_texts(one, texts)
    assert isinstance(joined, Sample) and [turn.failed for turn in joined.turns] == ["", "refused", "", ""]


def test_turns_after_a_broken_picture_fail_with_it(chat: FakeChat) -> None:
    one = conversation("a", "b", "c", images=(picture(), Image(extension="png", data=b"no picture")))
    [texts] = EndpointRewriter(config(chat)).rewrite([one], Usage())
    assert [one if isinstance(one, str) else one and one.reason for one in texts] == (
        [f"{POLITE}a.", "corrupt_image", "corrupt_image"]
    )


def test_json_is_asked_for_read_and_missed(chat: FakeChat) -> None:
    found = rewrite(chat, sample("red"), sample("x [no json]", 1), sample("y [empty]", 2), structured=True)
    assert found[0] == f"{POLITE}red."
    assert isinstance(found[1], BadSample) and "is not the JSON that was asked for" in found[1].detail
    assert isinstance(found[2], BadSample) and "the answer is empty" in found[2].detail
    body = chat.bodies[0]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["polite"]
    assert json.loads(body["messages"][2]["content"]).keys() == {"polite"}


def test_half_a_surrogate_pair_in_json_can_be_written(chat: FakeChat) -> None:
    chat.answer = lambda text: "It is red \ud83d."
    assert rewrite(chat, sample("red"), structured=True) == ["It is red ?."]


def test_reasoning_is_not_the_answer(chat: FakeChat) -> None:
    chat.answer = lambda text: "<think>It is red, so I say so.</think>\n\nIt is red."
    assert rewrite(chat, sample("red")) == ["It is red."]
    chat.answer = lambda text: "It is \ud83d red."
    assert rewrite(chat, sample("red")) == ["It is ? red."]


def test_what_is_wrong_with_the_server_ends_the_work_and_blames_no_row(
    chat: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [sample("a", n) for n in range(30)]
    monkeypatch.setenv("OPENAI_API_KEY", "a secret key")
    chat.key = "another"
    with pytest.raises(EndpointDown, match="set the environment variable OPENAI_API_KEY") as down:
        EndpointRewriter(config(chat)).rewrite(samples, Usage())
    assert "secret" not in str(down.value) and len(chat.bodies) <= 4
    chat.key = ""
    with pytest.raises(EndpointDown, match="The model `other` does not exist"):
        EndpointRewriter(replace(config(chat), model="other")).rewrite(samples, Usage())
    with pytest.raises(EndpointDown, match=r"asked for the model fake-vl-7b, and another-13b answered: name it in"):
        EndpointRewriter(config(chat)).rewrite([*samples, sample("b [another model]", 99)], Usage())
    with pytest.raises(
        EndpointDown, match=r"wants to be paid \(HTTP 402: the server says why\); then the same command"
    ):
        EndpointRewriter(config(chat)).rewrite([*samples, sample("c [402]", 98)], Usage())
    chat.die()
    with pytest.raises(EndpointDown, match="no answer for 0 s"):
        EndpointRewriter(config(chat, patience=0.0)).rewrite(samples, Usage())


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b-instruct", True),
        ("qwen", "/models/Qwen-1.5B.Q4_K_M.gguf", True),
        ("openrouter/meta/llama-3-8b", "meta/llama-3-8b-instruct", True),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "llava-1.5-13b", False),
    ],
)
def test_names_that_may_be_of_one_model(asked: str, answered: str, same: bool) -> None:
    assert same_model(asked, answered) is same


def test_a_trial_shows_whats_wrong_before_work_begins(chat: FakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EndpointRewriter(config(chat)).try_out() == [f"{MODEL} at {chat.url} rewrites"]
    assert len(said(chat.bodies[0])[1]) == 1, "a model that takes no pictures must fail here"
    gone = "http://127.0.0.1:9/v1"
    lines = EndpointRewriter(replace(config(chat), urls=(gone, chat.url))).try_out()
    assert lines[0] == f"{MODEL} at {chat.url} rewrites"
    assert lines[1].startswith(f"{gone} does not answer at present: ") and "refused" in lines[1]
    with pytest.raises(EndpointDown, match="not exist"):
        EndpointRewriter(replace(config(chat), model="other")).try_out()
    with pytest.raises(EndpointDown, match="HTTP 400"):
        template = "{instruction} {annotation} [400]"
        EndpointRewriter(config(chat, prompt=PromptConfig(template=template))).try_out()
    chat.key = "k"
    with pytest.raises(EndpointDown, match="OPENAI_API_KEY"):
        EndpointRewriter(config(chat)).try_out()


def test_answers_that_are_paid_for_are_not_asked_again(chat: FakeChat, tmp_path: Path) -> None:
    kept = location(tmp_path) / "answers"
    samples = [sample(text, n) for n, text in enumerate(["a", "b [cut]", "c [refusal]", "d [400]"])]
    samples.append(conversation("e", "f"))
    rewriter = EndpointRewriter(config(chat))
    first, again = Usage(), Usage()
    with AnswerStore(kept, "s0") as answers:
        texts = rewriter.rewrite(samples[:3], first, answers)
    assert len(chat.bodies) == 3 and first["requests"] == 3
    with AnswerStore(kept, "s0") as answers:
        found = rewriter.rewrite(samples, again, answers)
    assert list(map(repr, found[:3])) == list(map(repr, texts)), "a cut answer is still cut"
    assert len(chat.bodies) == 3 + 1 + 2 and again["answers_reused"] == 3 and again["requests"] == 5
    with AnswerStore(kept, "s0") as answers:
        third = Usage()
        rewriter.rewrite(samples, third, answers)
    assert len(chat.bodies) == 7, "only the request that the server refuses, which cost nothing"
    assert {**third, "answers_reused": 3} == dict(again) and third["answers_reused"] == 5, "sums are those of one run"
    with AnswerStore(kept, "s0") as answers:
        EndpointRewriter(config(chat, max_tokens=9)).rewrite(samples[:1], Usage(), answers)
    assert len(chat.bodies) == 8, "another request is another answer"


def test_damaged_answers_are_asked_for_again(
    chat: FakeChat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, rewriter = location(tmp_path) / "answers", EndpointRewriter(config(chat))
    with AnswerStore(kept, "s0") as answers:
        whole = rewriter.rewrite([sample("a"), sample("b", 1)], Usage(), answers)
    [name] = kept.names(".jsonl")
    first, second = (kept / f"{name}.jsonl").read_text().splitlines()
    (kept / f"{name}.jsonl").put(f"{first}\n{second[: len(second) // 2]}\n\0\0\0\n[]\n")
    again = Usage()
    with AnswerStore(kept, "s0") as answers:
        assert rewriter.rewrite([sample("a"), sample("b", 1)], again, answers) == whole
    assert len(chat.bodies) == 3 and again["answers_reused"] == 1
    assert "3 damaged lines" in capsys.readouterr().out


def test_answers_go_when_their_shard_is_finished(tmp_path: Path) -> None:
    kept = location(tmp_path) / "answers"
    for name in ("s0", "s1", "s10", "s1/deep"):
        with AnswerStore(kept, name) as answers:
            answers.add("request", Answer(text=name))
    forget(kept, "s1")
    assert shards_with_answers(kept) == {"s0", "s10", "s1/deep"}
    forget_finished(kept, {"s0": None, "s1/deep": None})
    assert shards_with_answers(kept) == {"s0", "s1/deep"}


def shards_with_answers(kept: Location) -> set[str]:
    found = set()
    for name in ("s0", "s1", "s10", "s1/deep"):
        with AnswerStore(kept, name) as answers:
            if (answer := answers.get("request")) is not None:
                assert answer.text == name
                found.add(name)
    return found


def test_answers_that_cannot_be_kept_are_not_bought(chat: FakeChat, tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file where the folder should be")
    rewriter = EndpointRewriter(config(chat))
    with pytest.raises(OSError), AnswerStore(location(tmp_path) / "answers", "s0") as answers:
        rewriter.rewrite([sample("a")], Usage(), answers)


def test_answers_are_kept_in_a_bucket_too(chat: FakeChat, bucket: str) -> None:
    kept, rewriter = location(bucket) / "answers", EndpointRewriter(config(chat))
    for _ in range(2):
        with AnswerStore(kept, "s0") as answers:
            assert rewriter.rewrite([sample("a"), sample("b", 1)], Usage(), answers) == [
                [f"{POLITE}a."],
                [f"{POLITE}b."],
            ]
    assert len(chat.bodies) == 2 and len(kept.names(".jsonl")) == 1
    forget_finished(kept, {})
    assert not kept.names()
