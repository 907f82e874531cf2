"""Which loss a preference stage minimises, and what it compares the policy with. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from polite_flamingo.packing.pieces import Side

LossName = Literal[
    "sigmoid", "hinge", "ipo", "robust", "bco_pair", "apo_zero", "apo_down", "sppo_hard", "simpo", "orpo", "kto", "sft"
]
LOSSES: tuple[str, ...] = get_args(LossName)

WITHOUT_REFERENCE = frozenset({"simpo", "orpo", "sft"})
"""Losses of the policy's log-probabilities alone."""


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """The loss of a preference stage: a weighted sum, named as in TRL's DPOTrainer. The default is DPO.

    Attributes:
        loss: the summands: sigmoid (DPO), hinge, ipo, robust, bco_pair, apo_zero, apo_down, sppo_hard, simpo, orpo,
            kto, or sft (mean cross-entropy of the chosen answers' tokens).
        weights: one weight per summand; () for 1 each. MPO is [sigmoid, bco_pair, sft] with [0.8, 0.2, 1.0].
        beta: scale of the implicit rewards; the strength of the odds ratio in ORPO. Paper: 0.1.
        label_smoothing: `robust` only: the share of pairs that are assumed to be swapped.
        gamma: `simpo` only: the margin that is aimed at.
        desirable, undesirable: `kto` only: weights of the chosen and of the rejected answers.
        length_penalty: R-DPO's alpha, per token by which the chosen answer is longer; for sigmoid, hinge and robust.
        ld_alpha: LD-DPO's alpha: weight of the tokens beyond the length of the shorter answer; 1 weighs all alike.
        image_anchor: weight of mDPO's two terms, which punish a policy that ignores the picture; 0 turns them off.
        reference: "precomputed": log-probabilities of the start model, computed once before the first update.
            "adapter_off": computed in each update by the same model without its LoRA: no file, but twice the forward
            passes.
    """

    loss: tuple[LossName, ...] = ("sigmoid",)
    weights: tuple[float, ...] = ()
    beta: float = 0.1
    label_smoothing: float = 0.1
    gamma: float = 0.5
    desirable: float = 1.0
    undesirable: float = 1.0
    length_penalty: float = 0.0
    ld_alpha: float = 1.0
    image_anchor: float = 0.0
    reference: Literal["precomputed", "adapter_off"] = "precomputed"

    def __post_init__(self) -> None:
        """Raise ValueError for a loss that does not exist or cannot be minimised."""
        if not self.loss or len(set(self.loss)) < len(self.loss):
            raise ValueError("preference: loss names at least one loss, each once")
        if self.weights and len(self.weights) != len(self.loss):
            raise ValueError(f"preference: {len(self.weights)} weights for {len(self.loss)} losses; give one for each")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("preference: weights must be above 0; leave a loss out instead")
        if not self.beta > 0:
            raise ValueError("preference: beta must be above 0 (the paper's is 0.1)")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError("preference: label_smoothing is the share of swapped pairs, from 0 to below 0.5")
        if not 0 <= self.ld_alpha <= 1:
            raise ValueError("preference: ld_alpha must lie between 0 and 1; 1 weighs all tokens alike")
        if min(self.desirable, self.undesirable, self.image_anchor) < 0:
            raise ValueError("preference: desirable, undesirable and image_anchor must not be negative")

    @property
    def summands(self) -> dict[str, float]:
        """Weight of each loss by its name. ORPO's cross-entropy is a summand of its own."""
        found = dict(zip(self.loss, self.weights or (1.0,) * len(self.loss), strict=True))
        if "orpo" in found:
            found["sft"] = found.get("sft", 0.0) + found["orpo"]
        return {str(name): weight for name, weight in found.items()}

    @property
    def needs_reference(self) -> bool:
        """Whether a loss compares the policy with the reference."""
        return bool(set(self.loss) - WITHOUT_REFERENCE) or self.image_anchor > 0

    @property
    def sides(self) -> tuple[Side, ...]:
        """What is packed of each pair."""
        anchor: tuple[Side, ...] = ("anchor",) if self.image_anchor else ()
        unrelated: tuple[Side, ...] = ("unrelated",) if "kto" in self.loss else ()
        return ("chosen", "rejected", *anchor, *unrelated)
