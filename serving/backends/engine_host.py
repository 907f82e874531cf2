"""One model and its engines in this process, shared by all requests: the inside of an engine replica.

A conversation is tokenized as in training (`packing.chat_turns.conversation_ids`), continued by the engine with the
fewest requests, and comes back chunk by chunk. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.engine.async_engine import AsyncEngine, EngineClosed, EngineFailed, Overloaded
from polite_flamingo.flamingo.engine.engine_pool import EnginePool
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.images import decoding as images
from polite_flamingo.packing.chat_turns import Exchange, conversation_ids
from polite_flamingo.rewriters.flamingo import Rewriter, chatting, rewriting
from polite_flamingo.sample import IMAGE_MARK, BadSample
from serving.backends.base import Chunk, GenerationRequest
from serving.config import ServingConfig
from serving.errors import ApiError, overloaded, server_error

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

STREAMS_AT_FULL_RATE = 4
"""Open streams of an engine up to which each gets a chunk every `flush_seconds`."""


class EngineHost:
    """Loads a model once and answers until it is closed.

    Attributes:
        name: the model's name, as clients use it.
    """

    def __init__(
        self,
        name: str,
        config: RewriterConfig,
        *,
        chat: bool,
        waiting: int = ServingConfig.waiting,
        flush_seconds: float = ServingConfig.flush_seconds,
        model: FlamingoModel | None = None,
    ):
        """Load the model that `config` names.

        Args:
            name: the model's name.
            config: the model's and its engines'; one beam.
            chat: the model chats, else it rewrites; decides the prompt format.
            waiting: requests per engine beyond those that have a slot.
            flush_seconds: minimum seconds between two chunks of a stream; more while many are open, see
                `chunk_interval`.
            model: the model, if it is already loaded.

        Raises:
            ValueError: the config asks for beam search, which cannot be streamed.
        """
        if config.generation.num_beams > 1:
            raise ValueError(f"{name}: beam search cannot be streamed; set generation.num_beams to 1")
        self.name = name
        rewriter = Rewriter(config, model, chatting if chat else rewriting)
        self._tokenizer, self._positions = rewriter.model.tokenizer, rewriter.positions
        engine = rewriter.engine
        engines = engine.engines if isinstance(engine, EnginePool) else [engine]
        self._engines = [AsyncEngine(engine, max_waiting=waiting) for engine in engines]  # type: ignore[arg-type]
        self._chat, self._flush, self._default_tokens = chat, flush_seconds, config.generation.max_new_tokens

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """See `Backend.stream`."""
        engine = min(self._engines, key=lambda one: one.open_streams)
        try:
            tokenized = self._tokenized(request)
            pause = chunk_interval(self._flush, engine.open_streams)
            async with aclosing(engine.stream(tokenized, pause=pause)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Overloaded:
            raise overloaded(f"{self.name} has no room for another request; try again later") from None
        except EngineClosed:
            raise overloaded(f"{self.name} is shutting down; try again") from None
        except BadSample as bad:
            code = "invalid_image" if "image" in bad.reason else bad.reason
            raise ApiError(400, bad.detail, code=code, param="messages") from None
        except EngineFailed as failed:
            raise server_error(f"{self.name} failed while it answered; try again", "engine_failed") from failed

    async def warm_up(self) -> None:
        """Answer two tokens about an image with each engine, so that no client waits for first-use compilation."""
        prompt = (chatting if self._chat else rewriting)(IMAGE_MARK, "Answer: black")
        picture = io.BytesIO()
        images.black().save(picture, "PNG")
        request = GenerationRequest(
            model=self.name,
            exchanges=(Exchange(prompt=prompt, target="", images=1),),
            images=(picture.getvalue(),),
            params=SamplingParams(max_new_tokens=2),
        )

        async def answer() -> None:
            async with aclosing(self.stream(request)) as chunks:
                async for _ in chunks:
                    pass

        await asyncio.gather(*(answer() for _ in self._engines))  # each takes the engine with the fewest requests

    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of each engine, by "NAME/NUMBER"."""
        return {f"{self.name}/{number}": engine.metrics() for number, engine in enumerate(self._engines)}

    @property
    def healthy(self) -> bool:
        """Whether the engines work."""
        return all(engine.failure is None for engine in self._engines)

    async def aclose(self) -> None:
        """Stop. Open requests are cancelled."""
        await asyncio.gather(*(engine.aclose() for engine in self._engines))

    def _tokenized(self, request: GenerationRequest) -> Request:
        ids = conversation_ids(request.exchanges, self._tokenizer)
        wanted = request.params.max_new_tokens
        room = self._positions - len(ids)
        # A chat answer may end where the context does: evaluators ask for 1,024 tokens and more. A rewriting must fit.
        needed = 1 if self._chat else max(1, wanted)
        if room < needed:
            why = (
                f"{self.name} reads {self._positions} tokens; the conversation has {len(ids)} and asks for {needed} "
                f"more: shorten it{'' if self._chat else ', or lower max_tokens'}"
            )
            raise ApiError(400, why, code="context_length_exceeded", param="messages")
        params = replace(request.params, max_new_tokens=min(room, wanted or self._default_tokens))
        return Request(ids=ids, images=list(request.images), params=params)


def chunk_interval(flush_seconds: float, streams: int) -> float:
    """Seconds between two chunks of a stream while so many are open.

    A chunk costs the same however long it is. An engine sends no more of them per second when more streams share it,
    which leaves time for the answers; but no reader waits longer than ten times `flush_seconds`.
    """
    return flush_seconds * min(max(1.0, streams / STREAMS_AT_FULL_RATE), 10.0)
