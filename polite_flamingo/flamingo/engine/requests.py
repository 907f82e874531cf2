"""Requests to the engine, and the order in which many requests share the most work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from polite_flamingo.flamingo.engine.detokenizer import Detokenizer
from polite_flamingo.flamingo.engine.sampling import Ngrams, SamplingParams
from polite_flamingo.flamingo.model.kv_cache import ImageKV
from polite_flamingo.sample import BadSample

_GROUPS = 32
"""Groups of requests about the same images whose first requests run together."""


@dataclass(eq=False, kw_only=True)
class Request:
    """A prompt to continue, and its continuation so far.

    Attributes:
        ids: tokens of the prompt, with one image tag per image.
        images: encoded bytes, in the order of the tags.
        params: how to sample the continuation.
        tokens: the continuation so far, without its end token but with the tokens of a stop string.
        text: the continuation as text, cut before a stop string. Updated with every token only if `stream` is set.
        stream: keep `text` up to date, as far as no later token can change it.
        done: no more tokens will come.
        error: why the request failed, if it did.
        finish_reason: "stop", "length", "cancelled" or "error"; empty until done.
        digests: keys of the images in the image cache.
        image_numbers: for each prompt token, the image it sees (1 is the first, 0 none).
        image_kvs: keys and values of the images, while the request holds a slot.
        uniforms: one random number for each token to sample.
        detokenizer: set if the text is needed while it grows.
        ngrams: set if n-grams may not repeat.
        num_computed_tokens: tokens of `history` whose keys and values are in the cache.
        num_shared_tokens: how many of those the decode step reads from the shared row.
    """

    ids: list[int]
    images: Sequence[bytes] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    stream: bool = False
    done: bool = False
    error: BadSample | None = None
    finish_reason: str = ""
    digests: tuple[str, ...] = ()
    image_numbers: list[int] = field(default_factory=list)
    image_kvs: list[ImageKV] = field(default_factory=list)
    uniforms: Sequence[float] = ()
    detokenizer: Detokenizer | None = None
    ngrams: Ngrams | None = None
    num_computed_tokens: int = 0
    num_shared_tokens: int = 0

    @property
    def history(self) -> list[int]:
        """Prompt and continuation."""
        return self.ids + self.tokens

    def end(self, finish_reason: str, error: BadSample | None = None) -> None:
        """Mark the request as done and release what it held."""
        self.done, self.finish_reason, self.error = True, finish_reason, error
        self.image_kvs, self.detokenizer, self.ngrams = [], None, None


def in_cache_friendly_order(requests: Sequence[Request]) -> list[Request]:
    """Order requests so that the caches serve most of them.

    The longest prompts come first: the KV cache is then allocated once at its full size, and short prompts fill the
    gaps at the end. Of the requests about the same images one goes first; the others follow soon and reuse its prefix.
    """
    ordered: list[Request] = []
    alike = by_images(sorted(requests, key=lambda request: -len(request.ids)))
    for start in range(0, len(alike), _GROUPS):
        batch = alike[start : start + _GROUPS]
        ordered += [group[0] for group in batch]
        ordered += [request for group in batch for request in group[1:]]
    return ordered


def by_images(requests: Iterable[Request]) -> list[list[Request]]:
    """Group requests about the same images; one without images is a group of its own."""
    groups: dict[tuple[bytes, ...] | int, list[Request]] = {}
    for request in requests:
        groups.setdefault(tuple(request.images) or id(request), []).append(request)
    return list(groups.values())
