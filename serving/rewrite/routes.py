"""/v1/rewrite: Polite Flamingo online. Instruction, images and raw annotation in; polite text, scores, verdicts out.

One rewriting in a call, or many (`items`), which are streamed from the engines at once and so share their batch, and
are scored in one call. Prompt, decoding and filters are those of `build_pf1m`. A single rewriting that fails is an
error of HTTP; of many, each fails alone.
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

from polite_flamingo.flamingo.engine.sampling import seed_of
from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.prompts import rewriting_prompt
from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Ask, Backend
from serving.chat.images import Pictures
from serving.config import ServiceConfig
from serving.errors import ApiError, server_error
from serving.http.disconnects import unless_gone
from serving.rewrite.protocol import (
    Content,
    Options,
    RewriteAnswer,
    RewriteError,
    RewriteItemResult,
    RewriteList,
    RewriteMany,
    RewriteOne,
    Timings,
    Usage,
    request_schema,
)
from serving.rewrite.rewriting import check_model, fetched, parsed, result_of, sample_of, validated

router = APIRouter(tags=["rewriting"])


@dataclass(kw_only=True)
class _Item:
    """One rewriting on its way; once `error` is set nothing more is done for it."""

    sample: Sample | None = None
    finish: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    error: ApiError | None = None


@router.post(
    "/v1/rewrite",
    summary="Rewrite raw annotations politely",
    response_model=RewriteAnswer | RewriteList,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": request_schema()}}}},
)
async def rewrite(request: Request) -> RewriteAnswer | RewriteList:
    """One annotation (`instruction`, `raw`, `image` or `images`) or several (`items`), with what every filter says."""
    state = request.app.state
    config: ServiceConfig = state.config
    body = parsed(await request.body())
    asked = _asked(body, config)
    work = answer(asked, config, state.backend, state.pictures, _request_id(request))
    told = await unless_gone(request, work)
    if told.usage is not None:
        request.state.usage.count(config.serving.rewriter_name, told.usage.prompt_tokens, told.usage.completion_tokens)
    return told


async def answer(
    asked: RewriteOne | RewriteMany, config: ServiceConfig, backend: Backend, pictures: Pictures, request_id: str = ""
) -> RewriteAnswer | RewriteList:
    """Rewrite and score what was asked.

    Raises:
        ApiError: for a single rewriting, whatever went wrong; for several, what every one of them failed of on our
            side, and whatever goes wrong with scoring as a whole.
    """
    contents: Sequence[Content] = asked.items if isinstance(asked, RewriteMany) else [asked]
    alone = isinstance(asked, RewriteOne)
    started = time.monotonic()
    paths = [""] if alone else [f"items.{number}" for number in range(len(contents))]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_rewritten(content, asked, path, config, backend, pictures, request_id))
            for content, path in zip(contents, paths, strict=True)
        ]
    items = [task.result() for task in tasks]
    rewritten = time.monotonic()
    if asked.scores:
        await _score(items, backend)
    scored = time.monotonic()
    errors = [item.error for item in items if item.error is not None]
    if errors and (alone or (all(error.status >= 500 for error in errors) and len(errors) == len(items))):
        raise errors[0]
    results = [_told(item, config) for item in items]
    common: dict[str, Any] = {
        "id": f"rewrite-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "timings": Timings(rewriting=round(rewritten - started, 4), scoring=round(scored - rewritten, 4)),
    }
    if alone:
        [result] = results
        return RewriteAnswer(**common, **dict(result))
    data = [
        RewriteItemResult(index=number, result=result if item.error is None else None, error=_error(item.error))
        for number, (item, result) in enumerate(zip(items, results, strict=True))
    ]
    return RewriteList(**common, data=data, usage=_sum(item.usage for item in items if item.usage is not None))


def ask_of(sample: Sample, config: ServiceConfig, options: Options | None = None, request_id: str = "") -> Ask:
    """What the engine is asked so that it writes what `Rewriter` would; `options` may overrule how."""
    generation = config.rewriter.generation
    chosen = options or Options()
    temperature = generation.temperature if generation.do_sample else 0.0
    return Ask(
        model=config.serving.rewriter_name,
        exchanges=(
            Exchange(
                prompt=rewriting_prompt(sample.instruction, sample.response), target="", images=len(sample.images)
            ),
        ),
        images=tuple(image.data for image in sample.images),
        max_tokens=chosen.max_tokens or generation.max_new_tokens,
        temperature=temperature if chosen.temperature is None else chosen.temperature,
        top_k=generation.top_k,
        top_p=generation.top_p if chosen.top_p is None else chosen.top_p,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        seed=seed_of(generation.seed, sample.key) if chosen.seed is None else chosen.seed,
        request_id=request_id,
    )


async def _rewritten(
    content: Content,
    options: Options,
    where: str,
    config: ServiceConfig,
    backend: Backend,
    pictures: Pictures,
    request_id: str,
) -> _Item:
    serving = config.serving
    item = _Item()
    try:
        sample = sample_of(content, await fetched(content, pictures, serving.limits, where))
        ask = ask_of(sample, config, options, request_id)
        text, prompt, tokens = "", 0, 0
        async with asyncio.timeout(serving.limits.seconds or None):
            async with aclosing(backend.stream(ask)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    text, tokens, prompt = text + delta.text, tokens + delta.tokens, delta.prompt_tokens
                    item.finish = delta.finish or None  # type: ignore[assignment]
        item.usage = Usage(prompt_tokens=prompt, completion_tokens=tokens, total_tokens=prompt + tokens)
        item.sample = replace(sample, rewritten=text.strip())
    except TimeoutError:
        seconds = serving.limits.seconds
        item.error = ApiError(504, f"no text within {seconds:g} seconds (limits.seconds)", "server_error", "timeout")
    except ApiError as error:
        error.param = where or None if error.param == "messages" else error.param
        item.error = error
    return item


async def _score(items: Sequence[_Item], backend: Backend) -> None:
    waiting = [item for item in items if item.error is None]
    found = await backend.score([item.sample for item in waiting if item.sample is not None]) if waiting else []
    for item, scores in zip(waiting, found, strict=True):
        assert item.sample is not None
        if isinstance(scores, BadSample) and scores.reason == "scoring_failed":  # its detail is for our own eyes
            why = "the filters failed on this text; with `scores: false` it is rewritten only"
            item.error = server_error(why, scores.reason)
        elif isinstance(scores, BadSample):
            detail = scores.detail.removeprefix(f"{item.sample.key}: ")
            item.error = ApiError(400, f"cannot be scored: {detail}", code=scores.reason)
        else:
            item.sample = replace(item.sample, scores=dict(scores))


def _asked(body: Any, config: ServiceConfig) -> RewriteOne | RewriteMany:
    """Raises ApiError."""
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object, not {type(body).__name__}", code="invalid_value")
    asked = validated(RewriteMany, body) if "items" in body else validated(RewriteOne, body)
    check_model(asked.model, config)
    if isinstance(asked, RewriteMany) and len(asked.items) > config.serving.limits.rewrites:
        most = config.serving.limits.rewrites
        raise ApiError(
            400,
            f"items are {len(asked.items)}; limits.rewrites is {most}: send several calls, or a batch (/v1/batches)",
            code="too_many_items",
            param="items",
        )
    return asked


def _told(item: _Item, config: ServiceConfig) -> Any:
    if item.error is not None or item.sample is None:
        return None
    name, thresholds = config.serving.rewriter_name, config.thresholds
    return result_of(item.sample, name, thresholds, finish=item.finish, usage=item.usage)


def _error(error: ApiError | None) -> RewriteError | None:
    return None if error is None else RewriteError(**error.body()["error"])


def _sum(usages: Any) -> Usage:
    total = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    for usage in usages:
        total.prompt_tokens += usage.prompt_tokens
        total.completion_tokens += usage.completion_tokens
        total.total_tokens += usage.total_tokens
    return total


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
