"""What all recipes share: an optimiser with its schedule, and a progress line."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from polite_flamingo.rewriters.flamingo import choose_dtype


def seed_everything(seed: int) -> None:
    """Fix the initial weights and the order of the data."""
    random.seed(seed)
    torch.manual_seed(seed)


def mixed_precision() -> torch.autocast:
    """Use bf16 if the CPU multiplies it, 2.5 times as fast as fp32; elsewhere it is 60 times slower and not used."""
    dtype = choose_dtype("auto", "cpu")
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


class Optimiser:
    """Muon for hidden matrices, AdamW for the rest (embeddings, heads, norms, gates), one cosine schedule.

    In earlier prototypes of these models Muon reached in 600 CPU-seconds what AdamW did not in 720; its step is scaled
    to AdamW's RMS, so one learning rate serves both.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, lr: float, steps: int, warm_up: int = 40, start: int = 0
    ):
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in named:
            if not parameter.requires_grad:
                continue
            matrix = parameter.ndim == 2 and not any(word in name for word in ("embed", "lm_head", "head", "latents"))
            (hidden if matrix else rest).append(parameter)
        self._optimisers: list[torch.optim.Optimizer] = []
        if hidden:
            self._optimisers.append(
                torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=5)
            )
        if rest:
            self._optimisers.append(torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)))
        self._parameters = hidden + rest
        self._lr, self._steps, self._warm_up, self._step, self._start = (
            lr,
            steps,
            warm_up,
            start,
            start,
        )

    def step(self, loss: Tensor) -> None:
        """Back-propagate, clip to norm 1, update, and clear the gradients."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._step += 1
        share = min(1.0, self._step / self._steps)
        lr = self._lr * min(
            (self._step - self._start) / self._warm_up, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))
        )
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def run(steps: int, step: Callable[[int], dict[str, float]], *, every: int = 25) -> None:
    """Call `step(i)` for each step and print running means of what it returns, with the pace."""
    means: dict[str, float] = {}
    start = time.perf_counter()
    for i in range(steps):
        for name, value in step(i).items():
            means[name] = value if name not in means else 0.95 * means[name] + 0.05 * value
        if i % every == 0 or i == steps - 1:
            pace = (time.perf_counter() - start) / (i + 1)
            figures = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{i + 1:>6}/{steps}  {figures}  {pace:.2f} s/step", file=sys.stderr, flush=True)
