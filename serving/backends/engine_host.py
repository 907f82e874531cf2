"""One model and its engines in this process, shared by everybody who asks: what an engine replica is made of.

A conversation becomes token ids as training made them (`packing.encode`), is continued by the engine that has the
fewest requests, and comes back piece by piece. It knows no web framework and no Ray.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing

from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.flamingo.engine.async_engine import AsyncEngine, EngineClosed, EngineFailed, Overloaded
from polite_flamingo.flamingo.engine.engine_pool import Engines
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import Decoding
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.images import decoding as images
from polite_flamingo.packing.chat_turns import Exchange, conversation_ids
from polite_flamingo.rewriters.flamingo import Rewriter, chatting, rewriting
from polite_flamingo.sample import IMAGE_MARK, BadSample
from serving.backends.base import Ask, Delta
from serving.config import ServingConfig
from serving.errors import ApiError, overloaded, server_error

UNHURRIED = 4
"""Streams of an engine whose pieces may come every `flush_seconds`."""


class EngineHost:
    """Loads a model once and answers until it is closed.

    Attributes:
        name: of the model, as clients call it.
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
            name: of the model.
            config: of the model and its engines; one beam.
            chat: the model answers (else it rewrites); what its prompts begin with follows from it.
            waiting: requests beyond those that have a slot.
            flush_seconds: between two pieces of a stream; more where many are open, see `pause_between`.
            model: where it is loaded already.

        Raises:
            ValueError: the config wants beam search, whose texts do not come in pieces.
        """
        if config.generation.num_beams > 1:
            raise ValueError(f"{name}: a served model decodes with one beam; set generation.num_beams to 1")
        self.name = name
        rewriter = Rewriter(config, model, chatting if chat else rewriting)
        self._tokenizer, self._positions = rewriter.model.tokenizer, rewriter.positions
        decoder = rewriter.decoder
        engines = decoder.engines if isinstance(decoder, Engines) else [decoder]
        self._engines = [AsyncEngine(engine, max_waiting=waiting) for engine in engines]  # type: ignore[arg-type]
        self._chat, self._flush, self._usual_tokens = chat, flush_seconds, config.generation.max_new_tokens

    async def stream(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        """See `Backend.stream`."""
        request = self._request(ask)
        prompt = len(request.ids)
        engine = min(self._engines, key=lambda one: one.open_streams)
        try:
            pause = pause_between(self._flush, engine.open_streams)
            async with aclosing(engine.stream(request, pause=pause)) as pieces:
                async for piece in pieces:
                    yield Delta(piece.text, len(piece.tokens), piece.finish, prompt)
        except Overloaded:
            raise overloaded(f"{self.name} has no room for another request; try again later") from None
        except EngineClosed:
            raise overloaded(f"{self.name} is shutting down; try again") from None
        except BadSample as bad:
            raise _at_fault(bad) from None
        except EngineFailed as failed:
            raise server_error(f"{self.name} failed while it answered; try again", "engine_failed") from failed

    async def warm_up(self) -> None:
        """Each engine says two words about a picture: what its first use compiles is not for a client to await."""
        prompt = (chatting if self._chat else rewriting)(IMAGE_MARK, "Answer: black")
        picture = io.BytesIO()
        images.black().save(picture, "PNG")
        asked = Ask(
            model=self.name,
            exchanges=(Exchange(prompt=prompt, target="", images=1),),
            images=(picture.getvalue(),),
            max_tokens=2,
        )

        async def answer() -> None:
            async with aclosing(self.stream(asked)) as deltas:
                async for _ in deltas:
                    pass

        await asyncio.gather(*(answer() for _ in self._engines))  # each takes the engine that has the fewest

    def figures(self) -> dict[str, dict[str, float]]:
        """Of each engine, by "NAME/NUMBER"."""
        return {f"{self.name}/{number}": engine.metrics() for number, engine in enumerate(self._engines)}

    @property
    def healthy(self) -> bool:
        """Whether the engines work."""
        return all(engine.failure is None for engine in self._engines)

    async def aclose(self, *, drain: bool = False) -> None:
        """Take no more; with `drain`, after what is open has ended."""
        await asyncio.gather(*(engine.aclose(drain=drain) for engine in self._engines))

    def _request(self, ask: Ask) -> Request:
        try:
            ids = conversation_ids(ask.exchanges, self._tokenizer)
        except BadSample as bad:
            raise _at_fault(bad) from None
        room = self._positions - len(ids)
        # An answer may end where the model does: evaluators ask for 1,024 tokens and more. A rewriting must be whole.
        needed = 1 if self._chat else max(1, ask.max_tokens)
        if room < needed:
            raise ApiError(
                400,
                f"{self.name} reads {self._positions} tokens; the conversation has {len(ids)} and asks for "
                f"{needed} more: shorten it{'' if self._chat else ', or lower max_tokens'}",
                code="context_length_exceeded",
                param="messages",
            )
        decoding = Decoding(
            max_new_tokens=min(room, ask.max_tokens or self._usual_tokens),
            temperature=ask.temperature,
            top_k=ask.top_k,
            top_p=ask.top_p,
            no_repeat_ngram_size=ask.no_repeat_ngram_size,
            stop=ask.stop,
            seed=ask.seed,
        )
        return Request(ids=ids, images=list(ask.images), decoding=decoding)


def pause_between(flush_seconds: float, streams: int) -> float:
    """Seconds between two pieces of a stream while so many are open.

    A piece costs the same however long it is, so an engine sends no more of them in a second when more streams share
    it: what is saved goes to the answers. But no reader waits longer than ten times the usual.
    """
    return flush_seconds * min(max(1.0, streams / UNHURRIED), 10.0)


def _at_fault(bad: BadSample) -> ApiError:
    image = "image" in bad.reason
    return ApiError(400, bad.detail, code="invalid_image" if image else bad.reason, param="messages")
