"""Load a whole Flamingo from files and save it: checkpoints in order, then LoRA.

`FlamingoConfig.checkpoint_omits` names the parts that checkpoints may leave out (the CLIP tower, the base LM); any
other gap is refused (`state_dict.py`). Only safetensors are written, and torch files are read without executing
pickles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from polite_flamingo import hub
from polite_flamingo.flamingo.config import FlamingoConfig, Part
from polite_flamingo.flamingo.model.build import build_flamingo, has_weights
from polite_flamingo.flamingo.model.lora import add_lora, load_lora, merge_lora
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.flamingo.model.state_dict import (
    canonical_state,
    load_state,
    part_of,
    plain_name,
    read_state,
    unique_parameters,
)

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

ZOO_PARTS: tuple[Part, ...] = ("perceiver", "cross_attention", "embeddings", "language_model")
"""The default of `save_flamingo`: everything but the frozen vision tower and LoRA."""


def load_flamingo(
    config: FlamingoConfig, *, merge: bool = True, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> FlamingoModel:
    """Load the model that `config` describes, in evaluation mode.

    Args:
        config: names the models.
        merge: merge LoRA into the language model (inference); False leaves it attached (training).
        dtype: dtype of all weights.
        device: the target device.

    Raises:
        ValueError: the checkpoints do not fit the model, or a part has no weights.
    """
    config = opened(config)
    model = build_flamingo(config, dtype=dtype)
    _refuse_random_parts(config)
    if config.lora_in_checkpoint:
        add_lora(model, config.lora_in_checkpoint)
    load_weights(model, [hub.resolve(name) for name in config.checkpoints], omits=config.checkpoint_omits)
    if config.lora:
        merge_lora(model)  # the one in the checkpoints, if any: `lora` was trained on top of it
        load_lora(model, hub.resolve(config.lora))
    if merge:
        merge_lora(model)
    return model.to(device).eval()


def save_flamingo(
    model: FlamingoModel,
    path: str | Path,
    *,
    parts: Sequence[Part] = ZOO_PARTS,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `parts` as one safetensors file under open_flamingo's key names, each tensor once.

    Tied output embeddings and open_flamingo's aliases (`old_decoder_blocks`, `gated_cross_attn_layers`) are not
    repeated. With LoRA attached, base weights are written under their plain names, and "lora" is a separate part.
    """
    tensors = {
        plain_name(name): parameter.detach().to("cpu", dtype or parameter.dtype).contiguous()
        for name, parameter in unique_parameters(model).items()
        if part_of(model, name) in parts
    }
    save_file(tensors, str(path), metadata={"format": "pt"})


def load_weights(model: FlamingoModel, files: Sequence[str | Path], *, omits: Sequence[Part]) -> None:
    """Load state dicts in order, a later file over an earlier one; together they must cover all but `omits`.

    Raises:
        ValueError: unknown or missing keys, wrong shapes, aliases that contradict each other.
    """
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state.update(canonical_state(model, read_state(file), source=str(file)))
    load_state(model, state, omits=omits, source=", ".join(str(file) for file in files) or "no checkpoint")


def _refuse_random_parts(config: FlamingoConfig) -> None:
    """Raise ValueError if a part has no file; it would silently stay random."""
    omits = config.checkpoint_omits
    if "language_model" in omits and not has_weights(hub.resolve(config.language_model)):
        raise ValueError(
            f"language_model {config.language_model!r} has a config but no weights, and checkpoint_omits lets the "
            "checkpoints leave them out too: the model would be random"
        )
    from open_clip.factory import _find_checkpoint_in_dir

    vision = Path(hub.resolve(config.vision))
    given = bool(_find_checkpoint_in_dir(vision)) if vision.is_dir() else bool(config.vision_pretrained)
    if "vision_encoder" in omits and not given:
        raise ValueError(
            f"vision {config.vision!r} has no weights: a folder needs open_clip_model.safetensors, an open_clip name "
            "needs vision_pretrained. If the checkpoints hold them, remove 'vision_encoder' from checkpoint_omits"
        )
