"""Freezing: a stage trains the parts of the model that it names; all other weights stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from polite_flamingo.flamingo.config import Part
from polite_flamingo.flamingo.model.state_dict import part_of, unique_parameters
from training.stages import StageConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


def freeze_untuned(model: FlamingoModel, stage: StageConfig) -> dict[str, nn.Parameter]:
    """Freeze everything except what the stage tunes; cast that to float32 and return it by canonical name.

    Raises:
        ValueError: the model lacks a part that should be tuned.
    """
    model.requires_grad_(False)
    tuned: dict[str, nn.Parameter] = {}
    for name, parameter in unique_parameters(model).items():
        if part_of(model, name) not in stage.tune:
            continue
        if not stage.cross_attention_ffn and (".gated_cross_attn_layer.ff." in name or name.endswith(".ff_gate")):
            continue
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
        tuned[name] = parameter
    missing = [part for part in stage.tune if not any(part_of(model, name) == part for name in tuned)]
    if missing:
        parts: list[Part] = sorted({part_of(model, name) for name in unique_parameters(model)})
        raise ValueError(f"training: the stage tunes {missing}, which the model does not have; its parts are {parts}")
    for module in (*model.perceiver.modules(), *model.lang_encoder.gated_cross_attn_layers.modules()):
        if isinstance(module, nn.LayerNorm):
            module.float()  # the gates' stream is float32; on a CPU a norm must not be narrower
    model.train()
    model.vision_encoder.eval()
    if stage.preference is not None:  # the policy must start as the reference, to the last digit
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return tuned
