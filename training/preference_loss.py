"""The loss of a micro-batch of preference pairs, and TRL's metrics, as one module that DDP and FSDP can wrap.

The losses are formulas (`polite_flamingo/preference/losses.py`); here the model gives them log-probabilities.

Shapes: B rows, S tokens, P pairs, G segments, N supervised tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from polite_flamingo.flamingo.model.attention import isolation
from polite_flamingo.flamingo.model.lora import without_lora
from polite_flamingo.preference.log_probs import TokenScores, pair_weights, sums, token_scores
from polite_flamingo.preference.loss_config import PreferenceConfig
from polite_flamingo.preference.losses import PairLogProbs, pair_losses, reward_metrics
from training.loss import Batch
from training.pair_batch import PairBatch

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

TOKENS, PAIRS, CHOSEN, REJECTED = range(4)
"""Places in `ModelWithPreferences.counts`."""

TOKEN_METRICS = {"mean_token_accuracy": CHOSEN, "entropy": TOKENS, "logits/chosen": CHOSEN, "logits/rejected": REJECTED}
PAIR_METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A batch's log-probabilities by segment (G,), and the scores of its tokens (N,) with their segments."""

    sums_G: Tensor
    scores: TokenScores
    segment_N: Tensor


class ModelWithPreferences(nn.Module):
    """The model and its preference loss.

    Attributes:
        metrics: names of the metrics, as TRL has them.
        metric_counts: which of the `counts` each metric is divided by.
        term_counts: which of the `counts` each summand of the loss is divided by: pairs, tokens of chosen answers.
    """

    metrics = (*TOKEN_METRICS, *PAIR_METRICS)
    metric_counts = (*TOKEN_METRICS.values(), *(PAIRS for _ in PAIR_METRICS))
    term_counts = (PAIRS, CHOSEN)

    def __init__(self, model: FlamingoModel, config: PreferenceConfig, *, dtype: torch.dtype):
        """Args: config: the loss. dtype: dtype of matrix products, under autocast."""
        super().__init__()
        self.model, self.config, self._dtype = model, config, dtype

    @staticmethod
    def counts(batch: Batch) -> list[float]:
        """Return what sums over a batch are divided by: answer tokens, pairs, chosen tokens, rejected tokens."""
        pairs = batch.pairs
        assert pairs is not None
        chosen, rejected = int(pairs.chosen_tokens.sum()), int(pairs.rejected_tokens.sum())
        return [chosen + rejected, len(pairs.pairs), chosen, rejected]

    def forward(self, batch: Batch, *, sums_of: Literal["", "policy", "start"] = "") -> tuple[Tensor, Tensor]:
        """Return the summands of the loss (2,) with gradient, and the metrics; all summed over pairs or tokens.

        Args:
            batch: rows of pairs.
            sums_of: return the log-probability of each side (4, P) instead, without gradient: by the model as it is, or
                without its LoRA.
        """
        pairs = batch.pairs
        assert pairs is not None, "rows of a preference stage hold pairs"
        if sums_of:
            with torch.no_grad(), without_lora(self.model) if sums_of == "start" else nullcontext():
                sides_4P = _by_side(self._scored(batch).sums_G, pairs)
            return sides_4P, sides_4P.new_zeros(0)
        reference_4P = pairs.reference_4P
        if reference_4P is None and self.config.needs_reference:
            reference_4P, _ = self.forward(batch, sums_of="start")
        scored = self._scored(batch)
        sides_4P = _by_side(scored.sums_G, pairs)
        if reference_4P is None:
            reference_4P = torch.zeros_like(sides_4P)
        given = PairLogProbs(
            chosen=sides_4P[0], rejected=sides_4P[1],
            chosen_tokens=pairs.chosen_tokens, rejected_tokens=pairs.rejected_tokens,
            ref_chosen=reference_4P[0], ref_rejected=reference_4P[1],
            anchor=sides_4P[2], ref_anchor=reference_4P[2], has_anchor=pairs.sides_4P[2] >= 0,
        )  # fmt: skip
        losses_P = pair_losses(given, self.config, batch.kl)
        chosen_N = _of_side(scored.segment_N, pairs, 0)
        cross_entropy = -scored.scores.log_probs[chosen_N].sum() * self.config.summands.get("sft", 0.0)
        metrics = torch.stack([*self._token_metrics(scored, pairs), *self._pair_metrics(given)])
        return torch.stack([losses_P.sum(), cross_entropy]), metrics

    def _scored(self, batch: Batch) -> _Scored:
        pairs = batch.pairs
        assert pairs is not None
        mask, positions = isolation(batch.sample_index_BS, self._dtype)
        device = batch.ids_BS.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            states_BSD = self.model.hidden(
                batch.vision, batch.ids_BS, batch.image_numbers_BS, attention_mask=mask, position_ids=positions
            )
            supervised_BS = batch.loss_mask_BS[:, 1:]
            head = self.model.lang_encoder.get_output_embeddings()
            scores = token_scores(states_BSD[:, :-1][supervised_BS], head, batch.ids_BS[:, 1:][supervised_BS])
        segment_N = pairs.segment_BS[:, 1:][supervised_BS]
        chosen_P, rejected_P = pairs.sides_4P[0], pairs.sides_4P[1]
        weights_N = pair_weights(segment_N, pairs.tokens_G, chosen_P, rejected_P, self.config.ld_alpha)
        sums_G = sums(scores.log_probs * weights_N, segment_N, len(pairs.tokens_G))
        return _Scored(sums_G=sums_G, scores=scores, segment_N=segment_N)

    def _token_metrics(self, scored: _Scored, pairs: PairBatch) -> list[Tensor]:
        scores = scored.scores
        chosen_N, rejected_N = (_of_side(scored.segment_N, pairs, side) for side in (0, 1))
        return [
            scores.correct[chosen_N].float().sum(),
            scores.entropy[chosen_N | rejected_N].sum(),
            scores.mean_logits[chosen_N].sum(),
            scores.mean_logits[rejected_N].sum(),
        ]

    def _pair_metrics(self, given: PairLogProbs) -> list[Tensor]:
        found = reward_metrics(given, self.config)
        return [found[name].sum() for name in PAIR_METRICS]


def _by_side(sums_G: Tensor, pairs: PairBatch) -> Tensor:
    """Return the sums of each side (4, P), 0 where a pair has none."""
    return torch.where(pairs.sides_4P < 0, 0.0, sums_G[pairs.sides_4P.clamp(min=0)])


def _of_side(segment_N: Tensor, pairs: PairBatch, side: int) -> Tensor:
    """Return which tokens belong to one side of a pair (N,)."""
    found_G = torch.zeros(len(pairs.tokens_G), dtype=torch.bool, device=segment_N.device)
    found_G[pairs.sides_4P[side]] = True  # every pair has the first two sides
    return found_G[segment_N]
