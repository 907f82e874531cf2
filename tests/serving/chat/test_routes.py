"""OpenAI's own client, unchanged, against the service on a port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from serving.chat.responses import ChatChunk, ChatCompletion
from serving.config import LimitsConfig
from tests.support.chat_service import CHAT, ChatService, chat_config, image, picture, running, text, user
from tests.support.patience import PATIENCE, wait_until
from tests.support.tiny_flamingo import Tiny

QUESTION = user(image(picture(10)), text("What is the man doing?"))


@pytest.fixture(scope="module")
def service(tiny: Tiny) -> Iterator[ChatService]:
    limits = LimitsConfig(choices=8, images=4, text_characters=5000, image_bytes=50_000, image_pixels=1_000_000)
    with running(chat_config(tiny, limits=limits), tiny.load()) as running_service:
        yield running_service


@pytest.fixture
def client(service: ChatService) -> Iterator[openai.OpenAI]:
    with service.client() as client:
        yield client


def ask(client: openai.OpenAI, *messages: Any, **options: Any) -> Any:
    return client.chat.completions.create(model=CHAT, messages=list(messages), **options)


def said(chunks: Any, choice: int = 0) -> str:
    return "".join(
        one.delta.content or "" for chunk in chunks for one in chunk.choices if one.index == choice and one.delta
    )


def test_an_answer_comes_whole_and_says_what_it_cost(client: openai.OpenAI, service: ChatService) -> None:
    answer = ask(client, QUESTION, max_tokens=9)
    assert answer.model == CHAT and answer.id.startswith("chatcmpl-") and answer.system_fingerprint.startswith("fp_")
    assert answer.choices[0].message.content and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length", "nine tokens were asked for, and no more came"
    assert answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9
    assert service.backend.asked[-1].images == (picture(10),), "bit-exact"
    ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    whole = ask(client, QUESTION, max_tokens=12)
    chunks = list(ask(client, QUESTION, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    assert said(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(one.usage is None for one in chunks[:-1])
    assert len({(one.id, one.created, one.system_fingerprint) for one in chunks}) == 1
    for chunk in chunks:
        ChatChunk.model_validate(chunk.model_dump(exclude_unset=True))
    without = list(ask(client, QUESTION, max_tokens=12, stream=True))
    assert said(without) == said(chunks) and all(one.choices and one.usage is None for one in without)


def test_a_piece_is_read_before_the_next_is_written(client: openai.OpenAI, service: ChatService) -> None:
    """The number of pieces depends on timing, so the engine is paused until the first one was read."""
    whole = ask(client, QUESTION, max_tokens=12).choices[0].message.content
    with service.held():
        stream = iter(ask(client, QUESTION, max_tokens=12, stream=True))
        first = ""
        while not first.strip():
            first += said([next(stream)])
        assert len(first) < len(whole), "held, it cannot have said all"
    assert first + said(stream) == whole


def test_the_answer_depends_on_every_image_and_on_what_was_said(client: openai.OpenAI, service: ChatService) -> None:
    first, second = picture(0), picture(255)
    talk = [user(text("Compare "), image(first), text(" with "), image(second), text("."))]
    answers = [ask(client, *talk)]
    answers.append(ask(client, user(text("Compare "), image(second), text(" with "), image(first), text("."))))
    talk += [answers[0].choices[0].message, user("Are you sure?")]  # the client's own object, sent back
    answers.append(ask(client, *talk))
    assert len({one.choices[0].message.content for one in answers}) == 3
    asked = service.backend.asked[-1]
    assert asked.images == (first, second) and len(asked.exchanges) == 2
    assert "Compare <image><|endofchunk|> with <image><|endofchunk|>." in asked.exchanges[0].prompt
    assert asked.exchanges[0].target == answers[0].choices[0].message.content


def test_choices_are_drawn_each_for_itself_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 7}
    texts = [[one.message.content for one in ask(client, QUESTION, **options).choices] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
    chunks = list(ask(client, QUESTION, **options, stream=True, stream_options={"include_usage": True}))
    assert [said(chunks, number) for number in range(3)] == texts[0]
    assert chunks[-1].usage.completion_tokens == 36
    assert {one.choices[0].index for one in chunks[:3]} == {0, 1, 2}, "each begins with its role"
    alone = ask(client, QUESTION, **(options | {"n": 1, "seed": 8})).choices[0].message.content
    assert alone == texts[0][1], "choice i is drawn from seed + i"
    free = {ask(client, QUESTION, max_tokens=12, temperature=1.5).choices[0].message.content for _ in range(4)}
    assert len(free) > 1, "without a seed every answer is another"
    greedy = ask(client, QUESTION, max_tokens=12).choices[0].message.content
    for same in ({"temperature": 1e-6}, {"temperature": 2, "top_p": 0}, {"temperature": 2, "extra_body": {"top_k": 1}}):
        assert greedy == ask(client, QUESTION, max_tokens=12, **same).choices[0].message.content


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    whole = ask(client, QUESTION, max_tokens=12).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    for given in (stop, ["never said", stop]):
        answer = ask(client, QUESTION, max_tokens=12, stop=given)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content == whole[: whole.index(stop)]


def test_without_max_tokens_the_model_s_own_limit_holds(client: openai.OpenAI) -> None:
    assert ask(client, QUESTION, temperature=2, seed=1).usage.completion_tokens <= 24
    prompt = ask(client, user("x")).usage.prompt_tokens
    cramped = ask(client, user("x" * (500 - prompt)), temperature=2, seed=1)
    assert cramped.usage.total_tokens <= 512, "the model reads no more, and where less room is left less is asked"


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == [CHAT, "polite-flamingo"]
    assert client.models.retrieve(CHAT).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"model": "polite-flamingo"}, "unsupported_model", "model"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"temperature": float("nan")}, None, None),
        ({"n": 9}, "limit_exceeded", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, "invalid_value", "max_tokens"),
        ({"messages": [user("x" * 600)], "max_tokens": 4}, "context_length_exceeded", "messages"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter", "tools"),
        ({"logprobs": True}, "unsupported_parameter", "logprobs"),
        ({"logit_bias": {"1": 5}}, "unsupported_parameter", "logit_bias"),
        ({"presence_penalty": 0.5}, "unsupported_parameter", "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"extra_body": {"min_p": 0.1}}, "unsupported_parameter", "min_p"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages.0.content"),
        ({"messages": [{"content": "Hi"}]}, "missing_required_parameter", "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_type", "messages.0.content"),
        ({"messages": [user({"type": "file"})]}, "invalid_value", "messages.0.content.0"),
        ({"messages": [user({"type": "text"})]}, "missing_required_parameter", "messages.0.content.0.text"),
        (
            {"messages": [user({"type": "image_url", "image_url": {"url": 1}})]},
            "invalid_type",
            "messages.0.content.0.image_url.url",
        ),
        (
            {"messages": [user(image(b"no image"), text("What?"))]},
            "invalid_image",
            "messages.0.content.0.image_url",
        ),
        (
            {"messages": [user(image(picture(1)[:60]), text("What?"))]},
            "invalid_image",
            "messages",
        ),
        ({"messages": [user("Hi"), {"role": "assistant", "content": "Hello"}]}, "invalid_value", "messages"),
        (
            {"messages": [user("Hi"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, user("?")]},
            "unsupported_parameter",
            "messages.1.tool_calls",
        ),
        ({"messages": [user("x" * 5001)]}, "limit_exceeded", "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, changes: dict[str, Any], code: str | None, param: str | None, stream: bool
) -> None:
    if "stream_options" in changes and stream:
        return
    given = {"model": CHAT, "messages": [user("Hi")], "max_tokens": 4, "stream": stream} | changes
    with pytest.raises((openai.BadRequestError, ValueError)) as caught:
        client.chat.completions.create(**given)
    if isinstance(caught.value, openai.BadRequestError):
        assert (caught.value.code, caught.value.param) == (code, param), caught.value.message
        assert len(caught.value.message) < 600


def test_what_asks_for_nothing_is_passed_over(client: openai.OpenAI) -> None:
    plain = ask(client, QUESTION, max_tokens=6)
    dressed = ask(
        client,
        QUESTION | {"name": "Ann"},
        max_completion_tokens=6,
        user="ann",
        metadata={"a": "b"},
        store=False,
        parallel_tool_calls=True,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        logprobs=False,
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        extra_body={"of_another_server": 1, "repetition_penalty": 1.0, "top_k": -1},
    )
    assert dressed.choices[0].message.content == plain.choices[0].message.content


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=[user("Hi")])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": "x", "messages": NaN}', b'"\xff"', b"[" * 9999, b'{"a":"\\ud800"}']
)
def test_a_body_that_is_no_request_is_told_so(service: ChatService, body: bytes) -> None:
    answer = httpx2.post(
        f"{service.url}/v1/chat/completions",
        content=body,
        headers={"Content-Type": "application/json"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_the_system_s_word_follows_the_trained_sentence(client: openai.OpenAI, service: ChatService) -> None:
    plain = ask(client, QUESTION).choices[0].message.content
    short = ask(client, {"role": "system", "content": "Be short."}, QUESTION).choices[0].message.content
    assert short != plain
    assert "to the user's questions. Be short.\n### Human: <image>" in service.backend.asked[-1].exchanges[0].prompt


def test_a_client_that_goes_away_frees_its_slots(service: ChatService) -> None:
    before = service.engine_metrics()["generated_tokens"]
    with service.held(), service.client() as client:
        stream = ask(client, user("Talk."), stream=True, n=8, temperature=2, seed=3, max_tokens=400)
        next(iter(stream))
        stream.close()
        until_idle(service)
    assert service.engine_metrics()["generated_tokens"] - before < 8 * 200, "none was written to its end"


def test_so_does_one_that_waits_for_a_whole_answer(service: ChatService) -> None:
    before = service.engine_metrics()["generated_tokens"]

    async def leave() -> None:
        async with service.async_client() as client:
            options: dict[str, Any] = {"n": 8, "temperature": 2, "seed": 3, "max_tokens": 400}
            asking = asyncio.ensure_future(
                client.chat.completions.create(model=CHAT, messages=[user("Talk.")], **options)
            )
            while not service.engine_metrics()["streams"]:
                await asyncio.sleep(0.001)
            asking.cancel()

    with service.held():
        asyncio.run(leave())
        until_idle(service)
    assert service.engine_metrics()["generated_tokens"] - before < 8 * 200


def until_idle(service: ChatService) -> None:
    """Streams that nobody reads must not stay open."""
    wait_until(lambda: not service.engine_metrics()["streams"])


def test_a_hundred_streams_at_once_say_what_they_say_alone(service: ChatService) -> None:
    def request(number: int) -> dict[str, Any]:
        talk = [user(image(picture(number * 2)), text(f"What is {number}?"))]
        return {"model": CHAT, "messages": talk, "max_tokens": 8, "seed": number, "temperature": number % 2}

    async def together() -> list[str]:
        async with service.async_client() as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(**request(number), stream=True)
                return said([chunk async for chunk in stream])

            return await asyncio.gather(*map(one, range(100)))

    found = asyncio.run(together())
    with service.client() as client:
        alone = [client.chat.completions.create(**request(number)).choices[0].message.content for number in range(100)]
    assert found == alone and len(set(found)) > 50
