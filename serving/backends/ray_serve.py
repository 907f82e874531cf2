"""The models on replicas of Ray Serve: routing, retries after a replica dies, metrics of all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Chunk, GenerationRequest
from serving.errors import ApiError, overloaded, server_error

ATTEMPTS = 4
"""Tries per request, including the first: it survives the death of three replicas."""

EngineMetrics = dict[str, dict[str, float]]


class RayBackend:
    """`Backend` over the handles of the deployments."""

    def __init__(self, engines: Mapping[str, DeploymentHandle], scoring: DeploymentHandle, board: DeploymentHandle):
        self._engines = {name: handle.options(stream=True, method_name="stream") for name, handle in engines.items()}
        self._scoring, self._board = scoring, board

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """See `Backend`. When a replica dies, another one generates the same answer again.

        Answers are the same on every replica, apart from rounding. What the client already has is skipped; where the
        new answer differs from it, the stream ends with an error instead.
        """
        sent_text, sent_tokens = "", 0
        for attempt in range(ATTEMPTS):
            text, tokens = "", ()
            with _deaths_survived(request.model, attempt):
                async with aclosing(_read(self._engines[request.model].remote(request))) as items:
                    async for item in items:
                        if isinstance(item, ApiError):
                            raise item
                        text, tokens = text + item.text, tokens + item.tokens
                        if len(text) < len(sent_text) and not item.finish_reason:
                            continue
                        if not text.startswith(sent_text):
                            raise server_error("the replica that wrote this answer died; ask again", "replica_died")
                        yield Chunk(
                            text[len(sent_text) :], tokens[sent_tokens:], item.finish_reason, item.prompt_tokens
                        )
                        sent_text, sent_tokens = text, max(sent_tokens, len(tokens))
                        if item.finish_reason:
                            return
            await asyncio.sleep(0.1 * 2**attempt)

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend`."""
        for attempt in range(ATTEMPTS):
            with _deaths_survived("the filters", attempt):
                return await self._scoring.score.remote(list(samples))
            await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError

    async def engine_metrics(self) -> EngineMetrics:
        """See `Backend`."""
        reports: dict[str, EngineMetrics] = await self._board.read.remote("engines")
        return {f"{engine}@{name}": values for name, engines in reports.items() for engine, values in engines.items()}

    async def ingress_metrics(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """See `Backend`."""
        name = serve.get_replica_context().replica_id.unique_id
        return {**await self._board.read.remote("ingress"), name: own}

    async def ready(self) -> bool:
        """See `Backend`: each model has a replica that reports."""
        reporting = {name.partition("/")[0] for name in await self.engine_metrics()}
        return set(self._engines) <= reporting


@contextmanager
def _deaths_survived(model: str, attempt: int) -> Iterator[None]:
    """Suppress the death of a replica, except in the last attempt. Raises ApiError then, and where there is no room."""
    try:
        yield
    except BackPressureError:
        raise overloaded(f"{model}: no room for another request; try again later") from None
    except (RayActorError, DeploymentUnavailableError) as error:
        if attempt == ATTEMPTS - 1:
            raise server_error(f"{model}: {ATTEMPTS} replicas died in a row; try again later") from error


async def _read(response: Any) -> AsyncGenerator[Any, None]:
    """The items of a streaming response, which is cancelled when its reader stops early."""
    try:
        async for item in response:
            yield item
    except BaseException:
        response.cancel()
        raise
