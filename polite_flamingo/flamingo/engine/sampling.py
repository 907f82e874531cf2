"""Sampling: from logits to tokens, for rows that each have their own parameters, including greedy rows.

A row uses one random number per token, from a stream that its seed fixes. So a request gives the same text whichever
rows share its batch, except for rounding in the logits. Filters apply in the order of transformers: repeated n-grams,
temperature, top-k, top-p.
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
class SamplingParams:
    """How the continuation of one request is sampled.

    Attributes:
        max_new_tokens: maximum number of tokens, not counting the end token.
        temperature: 0 is greedy.
        top_k: sample from this many of the likeliest tokens; 0 means all.
        top_p: sample from the fewest likeliest tokens with at least this total probability.
        no_repeat_ngram_size: n-grams of this size may occur only once in prompt and text; 0 allows all.
        stop: strings that end the answer and are cut off it.
        seed: seed of the random numbers.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0


def seed_of(seed: int, *keys: str) -> int:
    """Derive a 63-bit seed from the run's seed and keys; the same on every machine."""
    digest = hashlib.sha256("\0".join((str(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(seed: int, count: int) -> np.ndarray:
    """Return a request's first `count` random numbers, in [0, 1)."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def sample_tokens(logits_BV: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]) -> Tensor:
    """Choose one token per row, (B,).

    Args:
        logits_BV: logits, with banned tokens at minus infinity (`ban`).
        params: parameters of each row.
        numbers: one random number in [0, 1) per row; greedy rows ignore theirs.
    """
    tokens_B = logits_BV.argmax(dim=-1)
    sampled = [row for row, one in enumerate(params) if one.temperature > 0]
    if not sampled:
        return tokens_B
    device = logits_BV.device
    rows = upload(sampled, device)

    def column(name: str) -> Tensor:
        return upload([getattr(params[row], name) for row in sampled], device, torch.float32)[:, None]

    scores = logits_BV[rows].float() / column("temperature")
    top_k = [params[row].top_k or scores.shape[-1] for row in sampled]
    widest = min(max(top_k), scores.shape[-1])
    scores, candidates = torch.topk(scores, widest, dim=-1)  # sorted, the likeliest first
    ranks = torch.arange(widest, device=device)
    scores = scores.masked_fill(ranks >= upload(top_k, device)[:, None], -torch.inf)
    probabilities = scores.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities.masked_fill((before >= column("top_p")) & (ranks > 0), 0.0).double()
    cumulative = probabilities.cumsum(dim=-1)
    number = upload([numbers[row] for row in sampled], device, torch.float64)[:, None]
    chosen = (cumulative <= number * cumulative[:, -1:]).sum(dim=-1).clamp(max=widest - 1)
    tokens_B[rows] = candidates.gather(1, chosen[:, None])[:, 0]
    return tokens_B


class Ngrams:
    """The n-grams of a growing history; knows which tokens would repeat one without reading the history again."""

    def __init__(self, size: int, history: Sequence[int]):
        """Args: size: tokens per n-gram, at least 1. history: the first tokens."""
        self._size = size
        self._last: tuple[int, ...] = ()
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in history:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token to the history."""
        if len(self._last) == self._size - 1:
            self._followers[self._last].add(token)
        grown = (*self._last, token)
        self._last = grown[len(grown) - self._size + 1 :] if len(grown) >= self._size else grown

    def repeated_by(self) -> Collection[int]:
        """Return the tokens that would complete an n-gram which the history already contains."""
        return self._followers.get(self._last, ())


def ban(logits_BV: Tensor, histories: Sequence[Ngrams | None]) -> None:
    """Set the logits of tokens that would repeat an n-gram to minus infinity, in place; None allows everything."""
    rows: list[int] = []
    tokens: list[int] = []
    for row, history in enumerate(histories):
        if history is not None and (found := history.repeated_by()):
            rows += [row] * len(found)
            tokens += found
    if rows:
        banned = upload([rows, tokens], logits_BV.device)
        logits_BV[banned[0], banned[1]] = -torch.inf
