"""What all recipes share: an optimiser with its schedule, checkpoints to resume from, and a progress line."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

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

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], *, lr: float, steps: int, warm_up: int = 40):
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
        self._lr, self._steps, self._warm_up, self._step = lr, steps, warm_up, 0

    def step(self, loss: Tensor) -> None:
        """Back-propagate, clip to norm 1, update, and clear the gradients."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._step += 1
        share = min(1.0, self._step / self._steps)
        lr = self._lr * min(self._step / self._warm_up, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"step": self._step, "optimisers": [optimiser.state_dict() for optimiser in self._optimisers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._step = state["step"]
        for optimiser, kept in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)


class _Stateful(Protocol):
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


class Checkpoint:
    """A phase of a recipe on disk: a stopped run resumes there, and a finished phase is not run again.

    Args:
        file: where it is kept.
        parts: the model, the optimiser and whatever else has a state.
    """

    STEPS = 100
    """Steps between two checkpoints."""

    def __init__(self, file: Path, **parts: _Stateful):
        self._file, self._parts = file, parts

    def load(self) -> int:
        """Load the parts if there is a checkpoint; return the number of steps done."""
        if not self._file.exists():
            return 0
        kept = torch.load(self._file)
        for name, part in self._parts.items():
            part.load_state_dict(kept[name])
        return int(kept["step"])

    def save(self, step: int) -> None:
        """Replace the checkpoint by the present state, after `step` steps."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        torch.save({"step": step} | {name: part.state_dict() for name, part in self._parts.items()}, unfinished)
        unfinished.replace(self._file)


def run(steps: int, step: Callable[[int], dict[str, float]], checkpoint: Checkpoint, *, every: int = 25) -> None:
    """Call `step(i)` for each step not yet done and print running means of what it returns, with the pace.

    Steps must depend on `i` and on the checkpoint's parts only, so that a resumed run equals an uninterrupted one.
    """
    means: dict[str, float] = {}
    first = checkpoint.load()
    if first:
        print(f"resumed after {first} of {steps} steps", file=sys.stderr)
    start = time.perf_counter()
    for i in range(first, steps):
        torch.manual_seed(i)  # of dropout
        for name, value in step(i).items():
            means[name] = value if name not in means else 0.95 * means[name] + 0.05 * value
        if i % every == 0 or i == steps - 1:
            pace = (time.perf_counter() - start) / (i + 1 - first)
            figures = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{i + 1:>6}/{steps}  {figures}  {pace:.2f} s/step", file=sys.stderr, flush=True)
        if i % Checkpoint.STEPS == Checkpoint.STEPS - 1 or i == steps - 1:
            checkpoint.save(i + 1)
