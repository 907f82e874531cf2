"""/v1/chat/completions, whole and as a stream, and /v1/models: OpenAI's protocol over a `Backend`.

A request is read (`protocol.py`), its messages become the conversation of training (`conversation.py`), its images are
fetched (`images.py`), and each of its n choices is an `Ask`. A stream begins with the first piece of text: what goes
wrong before is an answer with a status of its own. A client that goes away takes its asks with it.

A chunk is text between a beginning and an end that are made once a stream: at hundreds of streams, chunks are what this
process mostly does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from polite_flamingo.flamingo.config import GenerationConfig
from serving.backends.base import Ask, Backend, Delta
from serving.chat.conversation import read_conversation
from serving.chat.protocol import ChatCompletion, ChatRequest, Model, ModelList, refuse_unsupported
from serving.config import ServingConfig
from serving.errors import ApiError, overloaded, server_error
from serving.http.disconnects import unless_gone
from serving.http.event_stream import EventStream
from serving.http.metrics import Usage
from serving.http.validation import JsonRoute

router = APIRouter(prefix="/v1", route_class=JsonRoute)

_GREEDY_BELOW = 1e-3
"""Temperatures that leave no second choice, and that single precision need not divide by."""

_GRACE = 5.0
"""Seconds beyond the time limit in which a stream may still tell that it is over."""

_EVENTS = (
    "With `stream`, server-sent events. Each is `data: ` and a chunk: the first of each choice has the role, the next "
    "ones pieces of `content`, the last a `finish_reason`; with `stream_options.include_usage` one more has no choices "
    'but the usage. `data: [DONE]` is the end. An answer that fails on the way ends with `data: {"error": …}`.'
)
_EXAMPLE = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"clever-flamingo",'
    '"system_fingerprint":"fp_0","choices":[{"index":0,"delta":{"content":"The circle"},"logprobs":null,'
    '"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)


@router.post(
    "/chat/completions",
    tags=["chat"],
    response_model=ChatCompletion,
    responses={
        200: {
            "description": "The whole answers, or with `stream` their pieces.",
            "content": {
                "text/event-stream": {"schema": {"type": "string", "description": _EVENTS}, "example": _EXAMPLE}
            },
        },
    },
)
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Continue a conversation, with any number of images in the user's messages.

    Works with OpenAI's clients. Differs from OpenAI's service in what is ignored and refused, see docs/serving.md.
    """
    serving: ServingConfig = request.app.state.config.serving
    _check_model(body.model, serving)
    if body.model != serving.chat_name:
        raise ApiError(
            400,
            f"{body.model} does not chat: ask it at /v1/rewrite, or ask {serving.chat_name} here",
            code="unsupported_model",
            param="model",
        )
    return await unless_gone(request, _answer(body, request, serving))


@router.get("/models", tags=["models"], response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The models: one chats, the other rewrites."""
    serving = request.app.state.config.serving
    data = [_model(name, request) for name in (serving.chat_name, serving.rewriter_name)]
    return JSONResponse({"object": "list", "data": data})


@router.get("/models/{model:path}", tags=["models"], response_model=Model)
async def retrieve_model(model: str, request: Request) -> Response:
    """One of them."""
    _check_model(model, request.app.state.config.serving)
    return JSONResponse(_model(model, request))


def fingerprint(serving: ServingConfig) -> str:
    """Of what decides the answers: the model, its settings and precision."""
    chat = serving.chat
    decides = repr((chat.flamingo, chat.generation, chat.dtype))
    return f"fp_{hashlib.sha256(decides.encode()).hexdigest()[:10]}"


def _model(name: str, request: Request) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": request.app.state.started, "owned_by": "polite-flamingo-on-ray"}


def _check_model(name: str, serving: ServingConfig) -> None:
    if name not in (serving.chat_name, serving.rewriter_name):
        why = f"there is no model {name[:80]!r}; there are {serving.chat_name} and {serving.rewriter_name}"
        raise ApiError(404, why, code="model_not_found", param="model")


async def _answer(body: ChatRequest, request: Request, serving: ServingConfig) -> Response:
    """The whole answers, or a stream whose first piece is there."""
    state = request.app.state
    limits = serving.limits
    deadline = asyncio.get_running_loop().time() + limits.seconds if limits.seconds else None
    try:
        async with asyncio.timeout_at(deadline):
            asks = await _asks(body, request, serving)
        deltas = _choices(state.backend, asks)
        tag = _tag(body.model, state.fingerprint)
        if not body.stream:
            async with aclosing(deltas), asyncio.timeout_at(deadline):
                return JSONResponse(await _whole(deltas, len(asks), tag, request.state.usage))
        try:
            async with asyncio.timeout_at(deadline):
                first = await anext(deltas)
        except BaseException:
            await deltas.aclose()
            raise
    except TimeoutError:
        raise _too_late(serving) from None
    told = bool(body.stream_options and body.stream_options.include_usage)
    events = _events(first, deltas, len(asks), tag, told, deadline, _too_late(serving), request.state.usage)
    return EventStream(events, None if deadline is None else deadline + _GRACE)


async def _asks(body: ChatRequest, request: Request, serving: ServingConfig) -> list[Ask]:
    """One for each choice. Raises ApiError for a request at fault."""
    refuse_unsupported(body)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for stream only", code="invalid_value", param="stream_options")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        why = "max_tokens and max_completion_tokens are the same; give one of them"
        raise ApiError(400, why, code="invalid_value", param="max_tokens")
    count = body.n or 1
    if count > serving.limits.choices:
        why = f"n is {count}; one request may have {serving.limits.choices} choices"
        raise ApiError(400, why, code="limit_exceeded", param="n")
    conversation = read_conversation(body.messages, serving.limits)
    images = tuple(await request.app.state.pictures.load(conversation.images))
    own = serving.chat.generation
    temperature, top_k, top_p = _sampling(body, own)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    seed = random.getrandbits(63) if body.seed is None else body.seed
    return [
        Ask(
            model=body.model,
            exchanges=conversation.exchanges,
            images=images,
            max_tokens=body.max_completion_tokens or body.max_tokens or 0,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            no_repeat_ngram_size=own.no_repeat_ngram_size,
            stop=stop,
            seed=(seed + number) % 2**64,
            request_id=getattr(request.state, "request_id", ""),
        )
        for number in range(count)
    ]


def _sampling(body: ChatRequest, own: GenerationConfig) -> tuple[float, int, float]:
    """Temperature, top_k, top_p: the request's, else the model's own where it samples, else those that do nothing."""
    temperature, top_k, top_p = (own.temperature, own.top_k, own.top_p) if own.do_sample else (0.0, 0, 1.0)
    if body.temperature is not None:
        temperature = body.temperature if body.temperature >= _GREEDY_BELOW else 0.0
    if body.top_k is not None:
        top_k = max(0, body.top_k)
    return temperature, top_k, top_p if body.top_p is None else body.top_p


async def _choices(backend: Backend, asks: Sequence[Ask]) -> AsyncGenerator[tuple[int, Delta]]:
    """What comes of all asks, as it comes. Closing it closes them all; the first that fails does too."""
    if len(asks) == 1:
        async with aclosing(_finished(backend, asks[0])) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    news: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue(maxsize=len(asks))

    async def follow(number: int) -> None:
        try:
            async with aclosing(_finished(backend, asks[number])) as deltas:
                async for delta in deltas:
                    await news.put((number, delta))
        except Exception as error:  # it is raised below
            await news.put((number, error))

    tasks = [asyncio.ensure_future(follow(number)) for number in range(len(asks))]
    open_ones = len(asks)
    try:
        while open_ones:
            number, found = await news.get()
            if isinstance(found, Exception):
                raise found
            open_ones -= bool(found.finish)
            yield number, found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _finished(backend: Backend, ask: Ask) -> AsyncGenerator[Delta]:
    """The deltas of an ask, up to a proper end."""
    async with aclosing(backend.stream(ask)) as deltas:
        async for delta in deltas:
            if delta.finish not in ("", "stop", "length"):
                break
            yield delta
            if delta.finish:
                return
    raise overloaded(f"{ask.model} ended this answer before its end, as it shuts down; try again")


def _tag(model: str, mark: str) -> dict[str, Any]:
    """What all chunks of an answer say."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": mark,
    }


def _too_late(serving: ServingConfig) -> ApiError:
    why = f"the answer took longer than the {serving.limits.seconds:g} s that this server allows; ask for fewer tokens"
    return ApiError(504, why, "server_error", "timeout")


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _whole(
    deltas: AsyncIterator[tuple[int, Delta]], count: int, tag: dict[str, Any], usage: Usage
) -> dict[str, Any]:
    """See `ChatCompletion`."""
    texts: list[list[str]] = [[] for _ in range(count)]
    finishes = [""] * count
    prompt = completion = 0
    try:
        async for number, delta in deltas:
            usage.first_token()
            texts[number].append(delta.text)
            finishes[number] = delta.finish
            prompt, completion = delta.prompt_tokens, completion + delta.tokens
    finally:
        usage.count(tag["model"], prompt, completion)
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": "".join(texts[number]), "refusal": None},
            "logprobs": None,
            "finish_reason": finishes[number],
        }
        for number in range(count)
    ]
    return {**tag, "object": "chat.completion", "choices": choices, "usage": _usage(prompt, completion)}


async def _events(
    first: tuple[int, Delta],
    deltas: AsyncGenerator[tuple[int, Delta]],
    count: int,
    tag: dict[str, Any],
    with_usage: bool,
    deadline: float | None,
    too_late: ApiError,
    usage: Usage,
) -> AsyncGenerator[bytes]:
    """Server-sent events, see `ChatChunk`. The first delta is given because it was waited for already."""
    head = json.dumps({**tag, "object": "chat.completion.chunk"}, separators=(",", ":"))[:-1]
    head = f'data: {head},"choices":['
    tail = '],"usage":null}\n\n' if with_usage else "]}\n\n"

    def chunk(number: int, delta: str, finish: str = "null") -> str:
        choice = f'{{"index":{number},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
        return f"{head}{choice}{tail}"

    text = "".join(chunk(number, '{"role":"assistant","content":""}') for number in range(count))
    prompt = completion = 0
    found: tuple[int, Delta] | None = first
    usage.first_token()
    try:
        async with aclosing(deltas):
            while found:
                number, delta = found
                prompt, completion = delta.prompt_tokens, completion + delta.tokens
                if delta.text:
                    text += chunk(number, f'{{"content":{json.dumps(delta.text)}}}')
                if delta.finish:
                    text += chunk(number, "{}", f'"{delta.finish}"')
                if text and not (delta.finish and count == 1):  # else it goes with the end
                    yield text.encode()
                    text = ""
                async with asyncio.timeout_at(deadline):
                    found = await anext(deltas, None)
    except (ApiError, TimeoutError) as error:
        failed = error if isinstance(error, ApiError) else too_late
        usage.failed(failed.code or failed.type)
        yield f"{text}data: {json.dumps(failed.body())}\n\n".encode()
        return
    except Exception:
        failed = server_error("the server failed while it answered; try again", "internal_error")
        yield f"{text}data: {json.dumps(failed.body())}\n\n".encode()
        raise
    finally:
        usage.count(tag["model"], prompt, completion)
    if with_usage:
        text += f'{head}],"usage":{json.dumps(_usage(prompt, completion))}}}\n\n'
    yield f"{text}data: [DONE]\n\n".encode()
