"""The models in this very process: for tests, and to try the HTTP side without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from serving.backends.base import Ask, Delta
from serving.backends.engine_host import EngineHost
from serving.backends.scoring import Scores, Scoring
from serving.errors import ApiError


class LocalBackend:
    """See `Backend`. Closed by `aclose`."""

    def __init__(self, hosts: Sequence[EngineHost], scorer: Scores | None = None):
        self._hosts = {host.name: host for host in hosts}
        self._scoring = None if scorer is None else Scoring(scorer)

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        """See `Backend`."""
        async with aclosing(self._hosts[ask.model].stream(ask)) as deltas:
            async for delta in deltas:
                yield delta

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """See `Backend`."""
        if self._scoring is None:
            raise ApiError(503, "this server has no filters", "server_error", "no_filters")
        return await self._scoring.score(samples)

    async def figures(self) -> dict[str, dict[str, float]]:
        """See `Backend`."""
        return {name: figures for host in self._hosts.values() for name, figures in host.figures().items()}

    async def ingresses(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """See `Backend`: there is one."""
        return {"local": own}

    async def ready(self) -> bool:
        """See `Backend`."""
        return all(host.healthy for host in self._hosts.values())

    async def aclose(self) -> None:
        """Cancel what is open."""
        await asyncio.gather(*(host.aclose() for host in self._hosts.values()))
