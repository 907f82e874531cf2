"""From logits to tokens, for rows that each have their own settings: greedy or drawn, n-grams that may not repeat.

A row draws one number a token, from a stream that its seed fixes; so the same request gives the same text whichever
rows share its batch, but for rounding in the logits. The order of the filters is that of transformers: repeated
n-grams, temperature, top-k, top-p.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.transfers import upload


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How one request is decoded.

    Attributes:
        max_new_tokens: the end token is not counted.
        temperature: 0 is greedy.
        top_k: most likely tokens drawn from; 0 is all.
        top_p: the fewest most likely tokens of this probability in all.
        no_repeat_ngram_size: n-grams of this length occur once in prompt and text; 0 allows all.
        stop: texts that end the answer and are cut off it.
        seed: of the draws.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0


def seed_of(seed: int, *keys: str) -> int:
    """A 63-bit seed from the run's seed and the keys, the same on every machine."""
    digest = hashlib.sha256("\0".join((str(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(seed: int, count: int) -> np.ndarray:
    """The first `count` draws of a request."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def choose(logits_BV: Tensor, decodings: Sequence[Decoding], draws: Sequence[float]) -> Tensor:
    """A token for each row, (B,).

    Args:
        logits_BV: bans are minus infinity already (`ban`).
        decodings: of each row.
        draws: of each row, in [0, 1); those of greedy rows are not looked at.
    """
    greedy = logits_BV.argmax(dim=-1)
    drawing = [row for row, decoding in enumerate(decodings) if decoding.temperature > 0]
    if not drawing:
        return greedy
    rows = upload(drawing, logits_BV.device)

    def column(name: str) -> Tensor:
        return upload([getattr(decodings[row], name) for row in drawing], logits_BV.device, torch.float32)[:, None]

    scores = logits_BV[rows].float() / column("temperature")
    top_k = [decodings[row].top_k or scores.shape[-1] for row in drawing]
    widest = min(max(top_k), scores.shape[-1])
    scores, tokens = torch.topk(scores, widest, dim=-1)  # sorted, the likeliest first
    places = torch.arange(widest, device=scores.device)
    scores = scores.masked_fill(places >= upload(top_k, scores.device)[:, None], -torch.inf)
    chances = scores.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances
    chances = chances.masked_fill((before >= column("top_p")) & (places > 0), 0.0).double()
    reached = chances.cumsum(dim=-1)
    drawn = upload([draws[row] for row in drawing], scores.device, torch.float64)[:, None]
    found = (reached <= drawn * reached[:, -1:]).sum(dim=-1).clamp(max=widest - 1)
    greedy[rows] = tokens.gather(1, found[:, None])[:, 0]
    return greedy


class Ngrams:
    """What would repeat an n-gram of a growing history, without reading it again for every token."""

    def __init__(self, size: int, history: Sequence[int]):
        """Args: size: tokens of an n-gram, at least 1. history: the beginning."""
        self._size = size
        self._last: tuple[int, ...] = ()
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in history:
            self.add(token)

    def add(self, token: int) -> None:
        """The history grows by this token."""
        if len(self._last) == self._size - 1:
            self._followers[self._last].add(token)
        grown = (*self._last, token)
        self._last = grown[len(grown) - self._size + 1 :] if len(grown) >= self._size else grown

    def repeated_by(self) -> Collection[int]:
        """The tokens that would end an n-gram which the history holds already."""
        return self._followers.get(self._last, ())


def ban(logits_BV: Tensor, histories: Sequence[Ngrams | None]) -> None:
    """Set to minus infinity what would repeat an n-gram of a row's history, in place; rows of None are free."""
    rows: list[int] = []
    tokens: list[int] = []
    for row, history in enumerate(histories):
        if history is not None and (found := history.repeated_by()):
            rows += [row] * len(found)
            tokens += found
    if rows:
        banned = upload([rows, tokens], logits_BV.device)
        logits_BV[banned[0], banned[1]] = -torch.inf
