"""What the engine is asked for: a prompt to be continued; and the order in which many are best asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polite_flamingo.flamingo.engine.detokenizer import RunningText
from polite_flamingo.flamingo.engine.sampling import Decoding, Ngrams
from polite_flamingo.flamingo.model.decoder import Media
from polite_flamingo.sample import BadSample


@dataclass(eq=False, kw_only=True)
class Request:
    """A prompt to be continued, and what has come of it.

    Attributes:
        ids: of the prompt, one image tag an image.
        images: encoded bytes, in the order of the tags.
        decoding: how to continue.
        tokens: the continuation so far, without its end token; a stop text's tokens are among them.
        text: of the continuation, a stop text and what follows it cut off; while it grows only with `follow`.
        follow: keep `text` up to date with every token, as far as no later one changes it.
        done: nothing more will come.
        error: why nothing more will come, where it failed.
        finish: "stop", "length", "cancelled" or "error".
    """

    ids: list[int]
    images: Sequence[bytes] = ()
    decoding: Decoding = field(default_factory=Decoding)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    follow: bool = False
    done: bool = False
    error: BadSample | None = None
    finish: str = ""
    digests: tuple[str, ...] = ()
    numbers: list[int] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    draws: Sequence[float] = ()
    running: RunningText | None = None
    ngrams: Ngrams | None = None
    ready: int = 0
    """Prompt (and, after an eviction, text) tokens whose keys and values are in the cache."""
    shared: int = 0
    """The first of them that decoding reads in the cache's shared row."""

    @property
    def history(self) -> list[int]:
        """Prompt and continuation."""
        return self.ids + self.tokens


def in_good_order(requests: Sequence[Request]) -> list[Request]:
    """The longest prompts first; of the same images one goes ahead and the others follow soon, to use its beginning.

    Long ones first, so that the cache is made once at its full size and the short ones fill the gaps at the end.
    """
    groups: dict[tuple[bytes, ...] | int, list[Request]] = {}
    for request in sorted(requests, key=lambda request: -len(request.ids)):
        groups.setdefault(tuple(request.images) or id(request), []).append(request)
    ordered: list[Request] = []
    chunk: list[list[Request]] = []
    for group in groups.values():
        chunk.append(group)
        if len(chunk) == 32:
            ordered += _first_then_others(chunk)
            chunk = []
    return ordered + _first_then_others(chunk)


def _first_then_others(groups: Sequence[Sequence[Request]]) -> list[Request]:
    return [group[0] for group in groups] + [request for group in groups for request in group[1:]]
