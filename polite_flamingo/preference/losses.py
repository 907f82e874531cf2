"""Preference losses, from log-probabilities of answers. Each is compared with TRL 1.16 to 1e-9 (tests/preference).

What differs from TRL: the cross-entropy of ORPO covers the chosen answer alone and not its prompt, and R-DPO and mDPO
are here, which TRL lacks. Running the model is elsewhere (`log_probs.py`, `training/preference_loss.py`).

Shapes: P pairs. c and r are the log-ratios of the chosen and the rejected answer, policy to reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from polite_flamingo.preference.loss_config import PreferenceConfig


@dataclass(frozen=True, kw_only=True)
class PairLogProbs:
    """Log-probabilities of P pairs, each summed over an answer's tokens, the closing EOS included; all are (P,).

    Attributes:
        chosen, rejected: of the policy, weighted as LD-DPO wants it (`log_probs.sums`).
        chosen_tokens, rejected_tokens: number of tokens.
        ref_chosen, ref_rejected: of the reference; zeros where no loss needs one.
        anchor, ref_anchor: of the chosen answer to the cropped picture (mDPO); None without an anchor.
        has_anchor: whether a pair has a picture, and so an anchor.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    anchor: Tensor | None = None
    ref_anchor: Tensor | None = None
    has_anchor: Tensor | None = None

    @property
    def c(self) -> Tensor:
        """Log-ratio of the chosen answer."""
        return self.chosen - self.ref_chosen

    @property
    def r(self) -> Tensor:
        """Log-ratio of the rejected answer."""
        return self.rejected - self.ref_rejected


def pair_losses(pairs: PairLogProbs, config: PreferenceConfig, kl: Tensor | float = 0.0) -> Tensor:
    """Return the weighted sum of all losses but `sft`, for each pair (P,).

    Args:
        pairs: P pairs.
        config: which losses.
        kl: KTO's estimate of the divergence from the reference: the mean log-ratio of answers to other questions, at
            least 0, without gradient.
    """
    total = torch.zeros_like(pairs.chosen)
    for name, weight in config.summands.items():
        if name == "kto":
            total = total + weight * _kto(pairs, config, kl)
        elif name != "sft":
            total = total + weight * _PAIRWISE[name](pairs, config)
    if config.image_anchor:
        total = total + config.image_anchor * _image_anchor(pairs, config)
    return total


def rewards(pairs: PairLogProbs, config: PreferenceConfig) -> tuple[Tensor, Tensor]:
    """Return the implicit rewards of the chosen and the rejected answers (P,), as TRL logs them.

    Without a reference they are beta times the mean log-probability of a token.
    """
    if config.needs_reference:
        return config.beta * pairs.c.detach(), config.beta * pairs.r.detach()
    chosen, rejected = _means(pairs)
    return config.beta * chosen.detach(), config.beta * rejected.detach()


def reward_metrics(pairs: PairLogProbs, config: PreferenceConfig) -> dict[str, Tensor]:
    """Return TRL's metrics of each pair (P,); the mean over pairs is logged. A tie counts as wrong."""
    chosen, rejected = rewards(pairs, config)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
        "rewards/margins": chosen - rejected,
        "logps/chosen": pairs.chosen.detach(),
        "logps/rejected": pairs.rejected.detach(),
    }


def _means(pairs: PairLogProbs) -> tuple[Tensor, Tensor]:
    return pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens


def _margin(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """Return the difference of the rewards, less R-DPO's penalty on length (arXiv 2403.19159)."""
    margin = config.beta * (pairs.c - pairs.r)
    if config.length_penalty:
        margin = margin - config.length_penalty * (pairs.chosen_tokens - pairs.rejected_tokens)
    return margin


def _sigmoid(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """DPO (arXiv 2305.18290)."""
    return -F.logsigmoid(_margin(pairs, config))


def _hinge(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """SLiC (arXiv 2309.06657)."""
    return F.relu(1 - _margin(pairs, config))


def _robust(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """Unbiased under a share eps of swapped pairs, and negative for some (arXiv 2403.00409)."""
    eps, margin = config.label_smoothing, _margin(pairs, config)
    return (eps * F.logsigmoid(-margin) - (1 - eps) * F.logsigmoid(margin)) / (1 - 2 * eps)


def _ipo(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """IPO, per token as its authors recommend (arXiv 2310.12036)."""
    return (pairs.c / pairs.chosen_tokens - pairs.r / pairs.rejected_tokens - 1 / (2 * config.beta)) ** 2


def _bco_pair(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """BCO without its running shift of the rewards (arXiv 2404.04656)."""
    return -F.logsigmoid(config.beta * pairs.c) - F.logsigmoid(-config.beta * pairs.r)


def _apo_zero(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """APO-zero: for chosen answers that are better than the policy's own (arXiv 2408.06266)."""
    return torch.sigmoid(-config.beta * pairs.c) + torch.sigmoid(config.beta * pairs.r)


def _apo_down(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """APO-down: for chosen answers that are worse than the policy's own (arXiv 2408.06266)."""
    return torch.sigmoid(config.beta * pairs.c) + torch.sigmoid(-config.beta * (pairs.c - pairs.r))


def _sppo_hard(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """SPPO where the chosen answer always wins (arXiv 2405.00675)."""
    aim = 0.5 / config.beta
    return (pairs.c - aim) ** 2 + (pairs.r + aim) ** 2


def _simpo(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """SimPO (arXiv 2405.14734)."""
    chosen, rejected = _means(pairs)
    return -F.logsigmoid(config.beta * (chosen - rejected) - config.gamma)


def _orpo(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """The odds ratio of ORPO (arXiv 2403.07691); its cross-entropy is the summand `sft`."""
    chosen, rejected = _means(pairs)
    return -config.beta * F.logsigmoid((chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected)))


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x below 0, exact at both ends; an answer that is certain counts as just not so."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -0.6931471805599453
    # The branch that is not taken must not become NaN, whose gradient would spread.
    low, high = torch.where(near, -1.0, x), torch.where(near, x, -1.0)
    return torch.where(near, torch.log(-torch.expm1(high)), torch.log1p(-torch.exp(low)))


def _kto(pairs: PairLogProbs, config: PreferenceConfig, kl: Tensor | float) -> Tensor:
    """KTO with both answers of a pair as two examples (arXiv 2402.01306)."""
    chosen = config.desirable * torch.sigmoid(-config.beta * (pairs.c - kl))
    rejected = config.undesirable * torch.sigmoid(config.beta * (pairs.r - kl))
    return (chosen + rejected) / 2


def _image_anchor(pairs: PairLogProbs, config: PreferenceConfig) -> Tensor:
    """mDPO's terms (arXiv 2406.11839): the whole picture beats a cropped one, and the chosen answer gains."""
    assert pairs.anchor is not None and pairs.ref_anchor is not None and pairs.has_anchor is not None
    lost = pairs.anchor - pairs.ref_anchor
    seen = -F.logsigmoid(config.beta * (pairs.c - lost))
    return torch.where(pairs.has_anchor, seen, 0.0) - F.logsigmoid(config.beta * pairs.c)


_PAIRWISE: Mapping[str, Callable[[PairLogProbs, PreferenceConfig], Tensor]] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "robust": _robust,
    "ipo": _ipo,
    "bco_pair": _bco_pair,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "sppo_hard": _sppo_hard,
    "simpo": _simpo,
    "orpo": _orpo,
}
