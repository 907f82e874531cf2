"""The models in this process: for tests, and to try the HTTP side without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Chunk, GenerationRequest
from serving.backends.engine_host import EngineHost
from serving.backends.scoring import BatchingScorer, Scores
from serving.errors import ApiError


class LocalBackend:
    """See `Backend`. Closed by `aclose`."""

    def __init__(self, hosts: Sequence[EngineHost], scorer: Scores | None = None):
        self._hosts = {host.name: host for host in hosts}
        self._scorer = None if scorer is None else BatchingScorer(scorer)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """See `Backend`."""
        async with aclosing(self._hosts[request.model].stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend`."""
        if self._scorer is None:
            raise ApiError(503, "this server has no filters", "server_error", "no_filters")
        return await self._scorer.score(samples)

    async def engine_metrics(self) -> dict[str, dict[str, float]]:
        """See `Backend`."""
        return {name: values for host in self._hosts.values() for name, values in host.metrics().items()}

    async def ingress_metrics(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """See `Backend`: there is one HTTP process."""
        return {"local": own}

    async def ready(self) -> bool:
        """See `Backend`."""
        return all(host.healthy for host in self._hosts.values())

    async def aclose(self) -> None:
        """Cancel all requests and close the engines."""
        await asyncio.gather(*(host.aclose() for host in self._hosts.values()))
