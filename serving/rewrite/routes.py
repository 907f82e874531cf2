"""/v1/rewrite: Polite Flamingo online. Instruction, images and raw annotation in; polite text, scores, verdicts out.

A call has one annotation, or several (`items`), which are rewritten at once, share the engines' batches and are scored
in one call. Prompt, decoding and filters are those of `build_pf1m`. If a single annotation fails, the response is an
error; several fail individually.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Request

from polite_flamingo.flamingo.engine.sampling import SamplingParams, seed_of
from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.prompts import rewriting_prompt
from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Backend, GenerationRequest
from serving.chat.images import ImageLoader
from serving.chat.responses import ErrorBody, Usage
from serving.config import ServiceConfig
from serving.errors import ApiError, invalid, server_error
from serving.http.disconnects import cancel_on_disconnect
from serving.http.validation import parse_body, validated
from serving.rewrite.protocol import (
    Content,
    Options,
    RewriteAnswer,
    RewriteItemResult,
    RewriteList,
    RewriteMany,
    RewriteOne,
    RewriteResult,
    Timings,
    request_schema,
)
from serving.rewrite.rewriting import check_model, image_references, make_result, make_sample

router = APIRouter(tags=["rewriting"])


@dataclass(kw_only=True)
class _Item:
    """One annotation being rewritten; `error` ends the work on it."""

    sample: Sample | None = None
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    error: ApiError | None = None

    def result(self, config: ServiceConfig) -> RewriteResult | None:
        """The response for it; None if it failed."""
        if self.error is not None or self.sample is None:
            return None
        name = config.serving.rewriter_name
        return make_result(self.sample, name, config.thresholds, finish_reason=self.finish_reason, usage=self.usage)


@router.post(
    "/v1/rewrite",
    summary="Rewrite raw annotations politely",
    response_model=RewriteAnswer | RewriteList,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}}},
)
async def rewrite(request: Request) -> RewriteAnswer | RewriteList:
    """Rewrite one annotation (`instruction`, `raw`, `image` or `images`) or several (`items`), and judge them."""
    state = request.app.state
    config: ServiceConfig = state.config
    body = _validated_body(parse_body(await request.body()), config)
    work = answer(body, config, state.backend, state.images, request.state.request_id)
    response = await cancel_on_disconnect(request, work)
    if (usage := response.usage) is not None:
        request.state.stats.count(config.serving.rewriter_name, usage.prompt_tokens, usage.completion_tokens)
    return response


async def answer(
    body: RewriteOne | RewriteMany, config: ServiceConfig, backend: Backend, images: ImageLoader, request_id: str = ""
) -> RewriteAnswer | RewriteList:
    """Rewrite and score.

    Raises:
        ApiError: whatever goes wrong with a single annotation; with several, a server error that all of them share, or
            a failure of scoring as a whole.
    """
    single = isinstance(body, RewriteOne)
    contents: Sequence[Content] = [body] if isinstance(body, RewriteOne) else body.items
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number, content in enumerate(contents):
            where = "" if single else f"items.{number}"
            tasks.append(group.create_task(_rewrite(content, body, where, config, backend, images, request_id)))
    items = [task.result() for task in tasks]
    rewritten = time.monotonic()
    if body.scores:
        await _score(items, backend)
    scored = time.monotonic()
    errors = [item.error for item in items if item.error is not None]
    if errors and (single or (all(error.status >= 500 for error in errors) and len(errors) == len(items))):
        raise errors[0]
    results = [item.result(config) for item in items]
    common: dict[str, Any] = {
        "id": f"rewrite-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "timings": Timings(rewriting=round(rewritten - started, 4), scoring=round(scored - rewritten, 4)),
    }
    if single:
        [result] = results
        assert result is not None
        return RewriteAnswer(**common, **dict(result))
    data = []
    for number, (item, result) in enumerate(zip(items, results, strict=True)):
        error = ErrorBody(**item.error.body()["error"]) if item.error else None
        data.append(RewriteItemResult(index=number, result=result, error=error))
    usages = [item.usage for item in items if item.usage is not None]
    usage = Usage.of(sum(one.prompt_tokens for one in usages), sum(one.completion_tokens for one in usages))
    return RewriteList(**common, data=data, usage=usage)


def generation_request(
    sample: Sample, config: ServiceConfig, options: Options | None = None, request_id: str = ""
) -> GenerationRequest:
    """The request by which an engine generates what `Rewriter` would; `options` override the decoding."""
    generation = config.rewriter.generation
    chosen = options or Options()
    temperature = generation.temperature if generation.do_sample else 0.0
    prompt = rewriting_prompt(sample.instruction, sample.response)
    return GenerationRequest(
        model=config.serving.rewriter_name,
        exchanges=(Exchange(prompt=prompt, target="", images=len(sample.images)),),
        images=tuple(image.data for image in sample.images),
        params=SamplingParams(
            max_new_tokens=chosen.max_tokens or generation.max_new_tokens,
            temperature=temperature if chosen.temperature is None else chosen.temperature,
            top_k=generation.top_k,
            top_p=generation.top_p if chosen.top_p is None else chosen.top_p,
            no_repeat_ngram_size=generation.no_repeat_ngram_size,
            seed=seed_of(generation.seed, sample.key) if chosen.seed is None else chosen.seed,
        ),
        request_id=request_id,
    )


async def _rewrite(
    content: Content,
    options: Options,
    where: str,
    config: ServiceConfig,
    backend: Backend,
    images: ImageLoader,
    request_id: str,
) -> _Item:
    """Rewrite one annotation. Args: where: its path in the body."""
    serving = config.serving
    item = _Item()
    try:
        sample = make_sample(content, await images.load(image_references(content, serving.limits, where)))
        text, prompt_tokens, tokens = "", 0, 0
        async with asyncio.timeout(serving.limits.seconds or None):
            request = generation_request(sample, config, options, request_id)
            async with aclosing(backend.stream(request)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    text, tokens, prompt_tokens = text + chunk.text, tokens + len(chunk.tokens), chunk.prompt_tokens
                    item.finish_reason = chunk.finish_reason or None  # type: ignore[assignment]
        item.usage = Usage.of(prompt_tokens, tokens)
        item.sample = replace(sample, rewritten=text.strip())
    except TimeoutError:
        seconds = serving.limits.seconds
        item.error = ApiError(504, f"no text within {seconds:g} seconds (limits.seconds)", "server_error", "timeout")
    except ApiError as error:
        error.param = where or None if error.param == "messages" else error.param
        item.error = error
    return item


async def _score(items: Sequence[_Item], backend: Backend) -> None:
    rewritten = [item for item in items if item.error is None]
    found = await backend.score([item.sample for item in rewritten if item.sample is not None]) if rewritten else []
    for item, scores in zip(rewritten, found, strict=True):
        assert item.sample is not None
        if isinstance(scores, BadSample) and scores.reason == "scoring_failed":  # its detail is for the server log
            why = "the filters failed on this text; send `scores: false` to rewrite it without them"
            item.error = server_error(why, scores.reason)
        elif isinstance(scores, BadSample):
            detail = scores.detail.removeprefix(f"{item.sample.key}: ")
            item.error = invalid("", f"cannot be scored: {detail}", scores.reason)
        else:
            item.sample = replace(item.sample, scores=dict(scores))


def _validated_body(body: Any, config: ServiceConfig) -> RewriteOne | RewriteMany:
    """Raises ApiError."""
    several = isinstance(body, dict) and "items" in body
    valid = validated(RewriteMany, body) if several else validated(RewriteOne, body)
    check_model(valid.model, config)
    limit = config.serving.limits.rewrites
    if isinstance(valid, RewriteMany) and len(valid.items) > limit:
        why = (
            f"{len(valid.items)} items; the limit is {limit} (limits.rewrites): make several calls, or use /v1/batches"
        )
        raise invalid("items", why, "too_many_items")
    return valid
