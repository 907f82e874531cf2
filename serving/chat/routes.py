"""/v1/chat/completions, whole and as a stream, and /v1/models: OpenAI's protocol over a `Backend`.

A request is validated (`protocol.py`), its messages become a conversation as in training (`conversation.py`), its
images are loaded (`images.py`), and each of its n choices becomes a `GenerationRequest`; `completion.py` formats what
comes back. A stream starts only when its first chunk is there: an earlier error has its own HTTP status. A client
that disconnects cancels its requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from polite_flamingo.flamingo.config import GenerationConfig
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from serving.backends.base import GenerationRequest
from serving.chat.completion import ChatResponse, generate
from serving.chat.conversation import read_conversation
from serving.chat.protocol import ChatRequest, refuse_unsupported
from serving.chat.responses import ChatCompletion, Model, ModelList
from serving.config import ServingConfig
from serving.errors import ApiError, invalid
from serving.http.disconnects import cancel_on_disconnect
from serving.http.event_stream import EventStream
from serving.http.validation import JsonRoute

router = APIRouter(prefix="/v1", route_class=JsonRoute)

_GREEDY_BELOW = 1e-3
"""Lower temperatures leave only one choice; dividing by them would overflow single precision."""

_GRACE = 5.0
"""Seconds after the time limit in which a stream may still send its last event."""

_EVENTS = (
    "With `stream`, server-sent events. Each is `data: ` and a chunk: the first of each choice has the role, the next "
    "ones parts of `content`, the last a `finish_reason`; with `stream_options.include_usage` a final one has the "
    'usage and no choices. `data: [DONE]` is the end. An answer that fails part-way ends with `data: {"error": …}`.'
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
            "description": "The complete answers, or with `stream` their chunks.",
            "content": {
                "text/event-stream": {"schema": {"type": "string", "description": _EVENTS}, "example": _EXAMPLE}
            },
        },
    },
)
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Continue a conversation, with any number of images in the user's messages.

    Works with OpenAI's clients. docs/serving.md lists the fields that are ignored or refused.
    """
    serving: ServingConfig = request.app.state.config.serving
    _check_model(body.model, serving)
    if body.model != serving.chat_name:
        why = f"{body.model} does not chat: call /v1/rewrite for it, or ask {serving.chat_name} here"
        raise invalid("model", why, "unsupported_model")
    return await cancel_on_disconnect(request, _answer(body, request, serving))


@router.get("/models", tags=["models"], response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The two models: one chats, the other rewrites."""
    serving = request.app.state.config.serving
    data = [_model(name, request) for name in (serving.chat_name, serving.rewriter_name)]
    return JSONResponse({"object": "list", "data": data})


@router.get("/models/{model:path}", tags=["models"], response_model=Model)
async def retrieve_model(model: str, request: Request) -> Response:
    """One model."""
    _check_model(model, request.app.state.config.serving)
    return JSONResponse(_model(model, request))


def fingerprint(serving: ServingConfig) -> str:
    """A hash of what determines the answers: the model, its settings and its precision."""
    chat = serving.chat
    settings = repr((chat.flamingo, chat.generation, chat.dtype))
    return f"fp_{hashlib.sha256(settings.encode()).hexdigest()[:10]}"


def _model(name: str, request: Request) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": request.app.state.started, "owned_by": "polite-flamingo-on-ray"}


def _check_model(name: str, serving: ServingConfig) -> None:
    if name not in (serving.chat_name, serving.rewriter_name):
        why = f"there is no model {name[:80]!r}; there are {serving.chat_name} and {serving.rewriter_name}"
        raise ApiError(404, why, code="model_not_found", param="model")


async def _answer(body: ChatRequest, request: Request, serving: ServingConfig) -> Response:
    """The whole response, or a stream whose first chunk has arrived."""
    state, seconds = request.app.state, serving.limits.seconds
    deadline = asyncio.get_running_loop().time() + seconds if seconds else None
    why = f"the answer took longer than the {seconds:g} s that this server allows; ask for fewer tokens"
    timeout = ApiError(504, why, "server_error", "timeout")
    try:
        async with asyncio.timeout_at(deadline):
            requests = await _generation_requests(body, request, serving)
        choices = generate(state.backend, requests)
        response = ChatResponse(body.model, state.fingerprint, len(requests), request.state.stats)
        if not body.stream:
            async with asyncio.timeout_at(deadline):
                return JSONResponse(await response.whole(choices))
        try:
            async with asyncio.timeout_at(deadline):
                first = await anext(choices)
        except BaseException:
            await choices.aclose()
            raise
    except TimeoutError:
        raise timeout from None
    usage = bool(body.stream_options and body.stream_options.include_usage)
    events = response.events(first, choices, deadline, timeout, usage=usage)
    return EventStream(events, None if deadline is None else deadline + _GRACE)


async def _generation_requests(body: ChatRequest, request: Request, serving: ServingConfig) -> list[GenerationRequest]:
    """One for each choice. Raises ApiError for a request at fault."""
    refuse_unsupported(body)
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "needs stream: true")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise invalid("max_tokens", "means the same as max_completion_tokens; give one of them")
    count = body.n or 1
    if count > serving.limits.choices:
        raise invalid("n", f"{count} choices; one request may have {serving.limits.choices}", "limit_exceeded")
    conversation = read_conversation(body.messages, serving.limits)
    images = tuple(await request.app.state.images.load(conversation.images))
    own = serving.chat.generation
    temperature, top_k, top_p = _sampling(body, own)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    seed = random.getrandbits(63) if body.seed is None else body.seed
    return [
        GenerationRequest(
            model=body.model,
            exchanges=conversation.exchanges,
            images=images,
            params=SamplingParams(
                max_new_tokens=body.max_completion_tokens or body.max_tokens or 0,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                no_repeat_ngram_size=own.no_repeat_ngram_size,
                stop=stop,
                seed=(seed + number) % 2**64,
            ),
            request_id=request.state.request_id,
        )
        for number in range(count)
    ]


def _sampling(body: ChatRequest, own: GenerationConfig) -> tuple[float, int, float]:
    """Temperature, top_k, top_p: the request's, else the model's own if it samples, else neutral ones."""
    temperature, top_k, top_p = (own.temperature, own.top_k, own.top_p) if own.do_sample else (0.0, 0, 1.0)
    if body.temperature is not None:
        temperature = body.temperature if body.temperature >= _GREEDY_BELOW else 0.0
    if body.top_k is not None:
        top_k = max(0, body.top_k)
    return temperature, top_k, top_p if body.top_p is None else body.top_p
