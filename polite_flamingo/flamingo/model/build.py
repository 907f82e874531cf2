"""Assemble a Flamingo from the models that a config names: vision tower, language model, tokenizer.

Checkpoints are read in `checkpoint.py`, and LoRA is attached in `lora.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from polite_flamingo import hub
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.tokenization import load_tokenizer
from polite_flamingo.torchvision_repair import repair_torchvision

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel, Preprocess

LM_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""A folder with one of these files holds a language model's weights, not only its config."""


def build_flamingo(config: FlamingoConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> FlamingoModel:
    """Build the model on the CPU; parts without a file (perceiver, cross-attention …) are random, from `seed`.

    `config.checkpoints` and LoRA are not read; `checkpoint.load_flamingo` does that. The vision tower is frozen, all
    else is trainable.
    """
    repair_torchvision()
    from polite_flamingo.flamingo.model.model import FlamingoModel

    tokenizer = load_tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        visual, preprocess = load_vision(config)
        language_model = _load_language_model(hub.resolve(config.language_model), dtype)
        if language_model.get_input_embeddings().weight.shape[0] != len(tokenizer):
            # As in the reference, embeddings of new tokens are random, here from the seed.
            language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model = FlamingoModel(
            visual,
            language_model,
            end_of_chunk_id=tokenizer.end_of_chunk_id,
            image_id=tokenizer.image_id,
            attention=config.attention,
            cross_attn_every_n_layers=config.cross_attn_every_n_layers,
            perceiver=config.perceiver,
            cross_attention=config.cross_attention,
        )
    # The language model already has its dtype; casting it would round its rotary frequencies, which stay float32.
    for module in (model.vision_encoder, model.perceiver, language_model.gated_cross_attn_layers):
        module.to(dtype)
    model.tokenizer = tokenizer
    model.preprocess = preprocess
    return model


def load_vision(config: FlamingoConfig) -> tuple[nn.Module, Preprocess]:
    """Load the vision tower and its evaluation transform; open_clip's text tower is dropped."""
    import open_clip

    name = hub.resolve(config.vision)
    pretrained = hub.resolve(config.vision_pretrained) or None
    if Path(name).is_dir():
        clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{name}")
    else:
        tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
        # OpenAI's weights were trained with QuickGELU; for a plain model name open_clip 3 only warns.
        clip, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, force_quick_gelu=bool(tag.get("quick_gelu", False))
        )
    return clip.visual, preprocess


def has_weights(name: str) -> bool:
    """Whether a resolved language-model name has weights: a hub name does, a folder only with a weights file."""
    folder = Path(name)
    return not folder.is_dir() or any((folder / file).exists() for file in LM_WEIGHTS)


def _load_language_model(name: str, dtype: torch.dtype) -> Any:
    if has_weights(name):
        return transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(name), dtype=dtype)
