"""Train the tiny base Flamingo (language model plus vision) and the LoRA that makes it Polite Flamingo."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from polite_flamingo.flamingo.config import CrossAttentionConfig, FlamingoConfig, LoraSettings, PerceiverConfig
from polite_flamingo.flamingo.model.build import build_flamingo
from polite_flamingo.flamingo.model.checkpoint import load_flamingo, save_flamingo
from polite_flamingo.flamingo.model.lora import add_lora, save_lora
from polite_flamingo.testbed.shapes.grammar import count_of
from polite_flamingo.testbed.shapes.scene import COLOURS, SHAPES, Scene
from polite_flamingo.testbed.zoo.clip import CELL_CLASSES, GROUND_CLASSES, cells_loss, ground_loss, pixels
from polite_flamingo.testbed.zoo.documents import (
    Batches,
    Maker,
    notes_written_out,
    read_and_answered,
    rewriting,
    seen_and_answered,
    seen_and_compared,
    seen_and_described,
    seen_and_written_out,
)
from polite_flamingo.testbed.zoo.fitting import Checkpoint, Optimiser, mixed_precision, run, seed_everything
from polite_flamingo.testbed.zoo.language_model import weighted_loss

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

BASE_STEPS = 2000
COMPARE_STEPS = 2000
POLITE_STEPS = 400
COUNT_CLASSES = 8
"""Counts that occur in a picture: 0 to 7."""
LORA = LoraSettings(r=32, alpha=32)


def zoo_config(weights: Path, *, lora: bool = False) -> FlamingoConfig:
    """Return the configuration of the base Flamingo under `weights`, with Polite Flamingo's LoRA if `lora`."""
    return FlamingoConfig(
        vision=str(weights / "clip"),
        language_model=str(weights / "flamingo"),
        tokenizer=str(weights / "flamingo"),
        checkpoints=(str(weights / "flamingo" / "flamingo.safetensors"),),
        lora=str(weights / "polite_flamingo") if lora else "",
        attention="v2",
        cross_attn_every_n_layers=2,
        perceiver=PerceiverConfig(depth=2, latents=24, heads=4, dim_head=48, ff_mult=2),
        cross_attention=CrossAttentionConfig(heads=4, dim_head=48, ff_mult=2),
    )


def latents(model: FlamingoModel, rows: list[tuple[Scene, ...]]) -> Tensor:
    """Return perceiver latents (B, T, L, D) of each row's pictures; unused slots are zero and never attended to."""
    slots = max(1, *(len(row) for row in rows))
    scenes = [scene for row in rows for scene in row]
    width = model.latents_shape
    out = torch.zeros(len(rows), slots, *width)
    if not scenes:
        return out
    seen = model.latents(model.patch_tokens(pixels(scenes))[:, None, None]).float()[:, 0]
    places = torch.tensor([(b, t) for b, row in enumerate(rows) for t in range(len(row))])
    return out.index_put((places[:, 0], places[:, 1]), seen)


class LatentHeads(nn.Module):
    """Names the contents of each cell from one latent of its own, the ground from another, and from two more how many
    things there are of each colour and of each shape; for training only.

    Without it the cross-attention has to find out at the same time what the latents hold and which one to read.
    """

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.Linear(width, CELL_CLASSES)
        self.ground = nn.Linear(width, GROUND_CLASSES)
        self.colours = nn.Linear(width, len(COLOURS) * COUNT_CLASSES)
        self.shapes = nn.Linear(width, (1 + len(SHAPES)) * COUNT_CLASSES)

    def forward(self, x_BLD: Tensor, scenes: list[Scene]) -> Tensor:
        """Return the classification loss of the first twelve latents (B, L, D) of each picture."""
        loss = cells_loss(self.cell(x_BLD[:, :9]), scenes) + ground_loss(self.ground(x_BLD[:, 9]), scenes)
        colours = [[count_of(scene, "shape", colour) for colour in COLOURS] for scene in scenes]
        shapes = [[count_of(scene, noun, None) for noun in ("shape", *SHAPES)] for scene in scenes]
        return (
            loss + _counts_loss(self.colours(x_BLD[:, 10]), colours) + _counts_loss(self.shapes(x_BLD[:, 11]), shapes)
        )


def _counts_loss(logits_BC: Tensor, counts: list[list[int]]) -> Tensor:
    """Return the classification loss of several counts a picture, half as heavy where there is nothing to count."""
    target = torch.tensor(counts).flatten()
    each = F.cross_entropy(logits_BC.float().unflatten(1, (-1, COUNT_CLASSES)).flatten(0, 1), target, reduction="none")
    return (each * torch.where(target == 0, 0.5, 1.0)).mean()


def _fit(
    model: FlamingoModel, data: Batches, optimiser: Optimiser, steps: int, checkpoint: Checkpoint,
    heads: LatentHeads | None = None,
) -> None:  # fmt: skip
    model.train()

    def step(i: int) -> dict[str, float]:
        ids, weights, rows = data[i]
        with mixed_precision():
            seen = latents(model, rows)
            logits = model(seen, ids).logits
        loss, right = weighted_loss(logits, ids, weights)
        figures = {"loss": loss.item(), "right": right}
        shown = [(b, t, scene) for b, row in enumerate(rows) for t, scene in enumerate(row)]
        if heads and shown:
            held = heads(torch.stack([seen[b, t] for b, t, _ in shown]), [scene for _, _, scene in shown])
            loss = loss + held
            figures["cells"] = held.item()
        optimiser.step(loss)
        return figures

    run(steps, step, checkpoint)


def train_base(
    weights: Path, language_model: Path, *, seed: int = 0, steps: int = BASE_STEPS, compare: int = COMPARE_STEPS,
    batch: int = 32, lr: float = 2e-3,
) -> None:  # fmt: skip
    """Add vision to the language model: train it, perceiver and gated cross-attention, but not the vision tower.

    Two phases, each resumed from its last checkpoint: `steps` steps on all kinds of document, then `compare` steps, at
    half the learning rate, with many questions about several things at once.

    Writes `flamingo/`: configuration and tokenizer of the language model, `flamingo.safetensors` (fp16).
    """
    seed_everything(seed)
    folder = weights / "flamingo"
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (language_model / file).exists():
            shutil.copy(language_model / file, folder / file)
    config = json.loads((language_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = build_flamingo(
        dataclasses.replace(zoo_config(weights), language_model=str(language_model), checkpoints=()), seed=seed
    )
    model.vision_encoder.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)  # from zero, the gates of so short a run hardly open
    makers: dict[Maker, float] = {
        seen_and_answered: 0.4, seen_and_described: 0.2, seen_and_written_out: 0.2, notes_written_out: 0.1,
        read_and_answered: 0.1,
    }  # fmt: skip
    comparing = makers | {seen_and_answered: 0.25, seen_and_compared: 0.35, seen_and_written_out: 0.1}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    heads = LatentHeads(model.latents_shape[1])
    named = [*model.named_parameters(), *((f"heads.{name}", p) for name, p in heads.named_parameters())]
    named = [(name, parameter) for name, parameter in named if not name.startswith("vision_encoder.")]
    for name, mixture, number, rate in (("base", makers, steps, lr), ("compare", comparing, compare, lr / 2)):
        data = Batches(f"{name}-{seed}", mixture, tokenizer, batch, prefix_weight=0.02)
        optimiser = Optimiser(named, lr=rate, steps=number)
        checkpoint = Checkpoint(folder / "training" / f"{name}.pt", model=model, heads=heads, optimiser=optimiser)
        print(f"{name}: {number} steps", file=sys.stderr)
        _fit(model, data, optimiser, number, checkpoint, heads)
    save_flamingo(model, folder / "flamingo.safetensors", dtype=torch.float16)


def train_polite(weights: Path, *, seed: int = 0, steps: int = POLITE_STEPS, batch: int = 48, lr: float = 3e-3) -> None:
    """Train LoRA over the frozen base, loss on the response only (paper, §3.1). Writes a peft adapter."""
    seed_everything(seed)
    model = load_flamingo(zoo_config(weights))
    add_lora(model, LORA)
    folder = weights / "polite_flamingo"
    tokenizer = AutoTokenizer.from_pretrained(weights / "flamingo")
    data = Batches(f"polite-{seed}", {rewriting: 1.0}, tokenizer, batch, prefix_weight=0.0)
    optimiser = Optimiser(model.named_parameters(), lr=lr, steps=steps)
    checkpoint = Checkpoint(folder / "training" / "polite.pt", model=model, optimiser=optimiser)
    _fit(model, data, optimiser, steps, checkpoint)
    save_half(model, folder)
    shutil.rmtree(folder / "training")


def save_half(model: FlamingoModel, folder: Path) -> None:
    """Save the LoRA in fp16: half the size, and the base is fp16 too."""
    save_lora(model, folder)
    file = str(folder / "adapter_model.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
