"""The optimisers, their state as plain tensors by parameter name, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoints import like
from training.distributed import whole
from training.stages import StageConfig


def learning_rate(stage: StageConfig, progress: float) -> float:
    """Return the rate after this share of the stage (0 to 1): linear warm-up, then half a cosine to zero."""
    if progress < stage.warm_up:
        return stage.learning_rate * progress / stage.warm_up
    left = (progress - stage.warm_up) / (1 - stage.warm_up)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, left)))


class Optimiser:
    """AdamW over everything, or Muon for hidden matrices and AdamW for the rest."""

    def __init__(self, stage: StageConfig, tuned: Mapping[str, nn.Parameter]):
        """Args: tuned: the parameters to train, by their names in the checkpoint."""
        self._tuned = tuned
        self._clip = stage.clip
        hidden = {
            name for name, p in tuned.items() if stage.optimizer == "muon" and p.ndim == 2 and "latents" not in name
        }
        self._optimisers: list[torch.optim.Optimizer] = []
        if hidden:
            self._optimisers.append(
                torch.optim.Muon(
                    [tuned[name] for name in sorted(hidden)],
                    lr=stage.learning_rate, weight_decay=stage.weight_decay, adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip
        matrices = [p for name, p in tuned.items() if name not in hidden and p.ndim >= 2]
        vectors = [p for name, p in tuned.items() if name not in hidden and p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if groups:
            self._optimisers.append(torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98)))

    def norm(self) -> float:
        """Clip the gradients to the stage's norm; return the norm before clipping."""
        found = nn.utils.clip_grad_norm_(list(self._tuned.values()), self._clip)
        return float(whole(found))

    def step(self, rate: float) -> None:
        """Update and clear the gradients."""
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self._tuned.values():
            parameter.grad = None

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the state by parameter name, as whole tensors on the CPU."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._tuned.items():
            for optimiser in self._optimisers:
                if parameter in optimiser.state:
                    found[name] = {
                        key: whole(torch.as_tensor(value)) for key, value in optimiser.state[parameter].items()
                    }
        return found

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Load what `state` returned."""
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in self._tuned.items() if p is parameter)
                    if name in state:
                        optimiser.state[parameter] = {
                            key: like(value, parameter) if value.shape == parameter.shape else value.clone()
                            for key, value in state[name].items()
                        }
