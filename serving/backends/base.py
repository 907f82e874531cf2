"""What the HTTP side asks of the models, and how: the line between `app.py` and whatever runs the engines.

On one side prompts are put together, images fetched and checked, answers formatted. On the other, engines and scorers
run: in this process (`local.py`), or on replicas of Ray Serve (`deployments.py`). Everything that crosses the line is
small and picklable. Nothing here knows HTTP or Ray.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.sample import BadSample, Sample


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One text that is wanted.

    Attributes:
        model: by the name that clients use.
        exchanges: the conversation; the last one's target, the answer, is "".
        images: encoded bytes, in the order of the tags.
        max_tokens: of the answer, a chat's at most; 0 is the model's own `max_new_tokens`, or what there is room for.
        temperature, top_k, top_p, no_repeat_ngram_size, stop, seed: as `flamingo.sampling.Decoding`; temperature 0 is
            greedy, top_k 0 is all.
        request_id: for the logs.
    """

    model: str
    exchanges: tuple[Exchange, ...]
    images: tuple[bytes, ...] = ()
    max_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    request_id: str = ""


@dataclass(frozen=True)
class Delta:
    """What came since the delta before.

    Attributes:
        text: final; no later delta changes it.
        tokens: how many were chosen.
        finish: "" but for the last: "stop" or "length".
        prompt_tokens: of the prompt, an image counts as one; the same in each delta.
    """

    text: str
    tokens: int
    finish: str = ""
    prompt_tokens: int = 0


class Backend(Protocol):
    """Runs models. All methods may be called by any number of tasks at once."""

    def stream(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece; closing the iterator (`aclose`) cancels it and frees its slot.

        Raises (while it is read):
            ApiError: 400 for a request at fault ("context_length_exceeded", "invalid_image"), 503 with Retry-After
                where there is no room, 500 where the engine failed.
        """

    async def score(self, samples: Sequence[Sample]) -> list[Mapping[str, Any] | BadSample]:
        """`Scorer.score` of rewritten samples. Raises ApiError 503 or 500."""

    async def figures(self) -> dict[str, dict[str, float]]:
        """Numbers of every engine now, by a name that says which: {"clever-flamingo/0": {"streams": 3, ...}}."""

    async def ingresses(self, own: list[Any]) -> Mapping[str, list[Any]]:
        """What each HTTP process counted (`Metrics.families`), by a name; `own` is the caller's."""

    async def ready(self) -> bool:
        """Whether every model answers."""
