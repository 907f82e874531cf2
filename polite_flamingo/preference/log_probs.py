"""Log-probabilities of answers in packed rows, without the logits of all positions at once.

The output head runs on supervised positions only, a chunk of them at a time; in the backward pass a chunk's logits are
computed again. So memory holds one chunk's logits, whatever the vocabulary.

Shapes: N supervised tokens, D width, V vocabulary, G segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 24
"""Logits held at once: 64 MiB in float32."""


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Scores of N target tokens; all are (N,), and only the first has a gradient.

    Attributes:
        log_probs: log-probability of the token, in nats.
        entropy: entropy of the prediction, in nats.
        mean_logits: mean logit over the vocabulary.
        correct: whether the token was the likeliest.
    """

    log_probs: Tensor
    entropy: Tensor
    mean_logits: Tensor
    correct: Tensor


def token_scores(
    states_ND: Tensor, head: nn.Module, targets_N: Tensor, chunk_logits: int = CHUNK_LOGITS
) -> TokenScores:
    """Return the scores of the target tokens.

    Args:
        states_ND: hidden states of the positions before the targets.
        head: the output head, (N, D) -> (N, V).
        targets_N: token ids.
        chunk_logits: logits held at once, at most (but always one position's).
    """

    def scores(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = head(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probs_NV = F.log_softmax(logits, dim=-1)
        with torch.no_grad():
            entropy = -(log_probs_NV.exp() * log_probs_NV).sum(-1)
            extra = entropy, logits.mean(-1), logits.argmax(-1) == targets
        return log_probs_NV.gather(-1, targets[:, None])[:, 0], *extra

    vocabulary: int = head.weight.shape[0]  # type: ignore[assignment,union-attr,index]
    size = max(1, chunk_logits // vocabulary)
    if len(targets_N) <= size:
        found = [scores(states_ND, targets_N)]
    else:
        pieces = zip(states_ND.split(size), targets_N.split(size), strict=True)
        found = [checkpoint(scores, states, targets, use_reentrant=False) for states, targets in pieces]
    log_probs, entropy, mean_logits, correct = (torch.cat(parts) for parts in zip(*found, strict=True))
    return TokenScores(
        log_probs=log_probs, entropy=entropy.detach(), mean_logits=mean_logits.detach(), correct=correct.detach()
    )


def sums(values_N: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    """Sum values by segment: (segments,). A token's segment is a number from 0; -1 is not counted."""
    counted = segment_N >= 0
    found = torch.zeros(segments, dtype=values_N.dtype, device=values_N.device)
    return found.index_add(0, segment_N[counted], values_N[counted])


def places(segment_N: Tensor, segments: int) -> Tensor:
    """Return each token's number within its segment (N,), from 0; the tokens of a segment follow each other."""
    counts = torch.bincount(segment_N, minlength=segments)
    starts = counts.cumsum(0) - counts
    order = torch.arange(len(segment_N), device=segment_N.device)
    return order - starts[segment_N]


def pair_weights(segment_N: Tensor, tokens_G: Tensor, chosen_P: Tensor, rejected_P: Tensor, ld_alpha: float) -> Tensor:
    """Return LD-DPO's weight of each token (arXiv 2409.06411): `ld_alpha` beyond the length that both answers reach.

    Args:
        segment_N: each token's segment.
        tokens_G: number of tokens in each segment.
        chosen_P: segment of each pair's chosen answer.
        rejected_P: segment of the rejected one; tokens of all other segments weigh 1.
        ld_alpha: the weight.
    """
    if ld_alpha == 1:
        return torch.ones_like(segment_N, dtype=torch.float32)
    shorter_P = torch.minimum(tokens_G[chosen_P], tokens_G[rejected_P])
    reach_G = tokens_G.clone()
    reach_G[chosen_P], reach_G[rejected_P] = shorter_P, shorter_P
    return torch.where(places(segment_N, len(tokens_G)) < reach_G[segment_N], 1.0, ld_alpha)
