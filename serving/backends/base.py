"""The interface between the HTTP side and whatever runs the models.

On one side conversations are read, images fetched and checked, responses formatted. On the other, engines and scorers
run: in this process (`local.py`) or on replicas of Ray Serve (`ray_serve.py`). Everything that crosses is small and can
be pickled. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from polite_flamingo.flamingo.engine.async_engine import Chunk as Chunk
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.sample import BadSample, Sample


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A conversation to continue.

    Attributes:
        model: the name that clients use.
        exchanges: the conversation; the target of the last one, the answer, is "".
        params: how to sample; `max_new_tokens` 0 is the model's own limit, or what there is room for.
        images: encoded bytes, in the order of the tags.
        request_id: for the logs.
    """

    model: str
    exchanges: tuple[Exchange, ...]
    params: SamplingParams
    images: tuple[bytes, ...] = ()
    request_id: str = ""


class Backend(Protocol):
    """Runs the models. Any number of tasks may call its methods at once."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The answer, chunk by chunk. Closing the iterator (`aclose`) cancels the request and frees its slot.

        Raises (while it is read):
            ApiError: 400 for a request at fault ("context_length_exceeded", "invalid_image"), 503 with Retry-After
                where there is no room, 500 where the engine failed.
        """

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """`Scorer.score` of rewritten samples. Raises ApiError 503 or 500."""

    async def engine_metrics(self) -> dict[str, dict[str, float]]:
        """Current metrics of every engine, such as {"clever-flamingo/0": {"streams": 3, ...}}."""

    async def ingress_metrics(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """Metrics of every HTTP process (`Metrics.families`), by a name; `own` are the caller's."""

    async def ready(self) -> bool:
        """Whether every model can answer."""
