"""Train the tiny base Flamingo (language model plus vision) and the LoRA that makes it Polite Flamingo."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from polite_flamingo.flamingo.config import CrossAttentionConfig, FlamingoConfig, LoraSettings, PerceiverConfig
from polite_flamingo.flamingo.model.build import build_flamingo
from polite_flamingo.flamingo.model.checkpoint import load_flamingo, save_flamingo
from polite_flamingo.flamingo.model.lora import add_lora, save_lora
from polite_flamingo.testbed.shapes.scene import Scene
from polite_flamingo.testbed.zoo.clip import pixels
from polite_flamingo.testbed.zoo.documents import (
    Batches,
    Maker,
    notes_written_out,
    rewriting,
    seen_and_answered,
    seen_and_written_out,
)
from polite_flamingo.testbed.zoo.fitting import Optimiser, mixed_precision, run, seed_everything
from polite_flamingo.testbed.zoo.language_model import weighted_loss

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

BASE_STEPS = 300
POLITE_STEPS = 300
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
        cross_attn_every_n_layers=3,
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


def _fit(model: FlamingoModel, data: Batches, optimiser: Optimiser, steps: int, keep: object) -> None:
    model.train()
    assert callable(keep)

    def step(i: int) -> dict[str, float]:
        ids, weights, rows = next(data)
        with mixed_precision():
            logits = model(latents(model, rows), ids).logits
        loss, right = weighted_loss(logits, ids, weights)
        optimiser.step(loss)
        if i % 50 == 49:
            keep()
        return {"loss": loss.item(), "right": right}

    run(steps, step)
    keep()


def train_base(
    weights: Path, language_model: Path, *, seed: int = 0, steps: int = BASE_STEPS, batch: int = 64, lr: float = 1.5e-3
) -> None:
    """Add vision to the language model: train it, perceiver and gated cross-attention, but not the vision tower.

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
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)  # from zero, the gates of so short a run hardly open
    rng = random.Random(f"base-{seed}")
    makers: dict[Maker, float] = {seen_and_written_out: 0.6, seen_and_answered: 0.3, notes_written_out: 0.1}
    data = Batches(rng, makers, AutoTokenizer.from_pretrained(folder), batch, prefix_weight=0.02)
    optimiser = Optimiser(
        [(n, p) for n, p in model.named_parameters() if not n.startswith("vision_encoder.")], lr=lr, steps=steps
    )
    _fit(model, data, optimiser, steps,
         lambda: save_flamingo(model, folder / "flamingo.safetensors", dtype=torch.float16))  # fmt: skip


def train_polite(weights: Path, *, seed: int = 0, steps: int = POLITE_STEPS, batch: int = 48, lr: float = 3e-3) -> None:
    """Train LoRA over the frozen base, loss on the response only (paper, §3.1). Writes a peft adapter."""
    seed_everything(seed)
    model = load_flamingo(zoo_config(weights))
    add_lora(model, LORA)
    rng = random.Random(f"polite-{seed}")
    tokenizer = AutoTokenizer.from_pretrained(weights / "flamingo")
    data = Batches(rng, {rewriting: 1.0}, tokenizer, batch, prefix_weight=0.0)
    optimiser = Optimiser(model.named_parameters(), lr=lr, steps=steps)
    _fit(model, data, optimiser, steps, lambda: save_half(model, weights / "polite_flamingo"))


def save_half(model: FlamingoModel, folder: Path) -> None:
    """Save the LoRA in fp16: half the size, and the base is fp16 too."""
    save_lora(model, folder)
    file = str(folder / "adapter_model.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
