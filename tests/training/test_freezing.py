"""Only what a stage tunes learns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.lora import add_lora
from training.freezing import freeze_untuned
from training.stages import CONNECTOR, StageConfig

LORA = StageConfig(tune=("lora",), lora=LoraSettings(r=2, alpha=2))


def test_only_what_the_stage_tunes_may_learn(tiny) -> None:
    model = tiny.load()
    add_lora(model, LORA.lora)
    names = set(freeze_untuned(model, LORA))
    assert names and all(".lora_" in name for name in names)
    names = set(freeze_untuned(model, replace(LORA, tune=CONNECTOR)))
    assert any(name.startswith("perceiver.") for name in names) and any(".attn.to_q" in name for name in names)
    assert not any(".gated_cross_attn_layer.ff" in name for name in names), "the paper leaves the FFN frozen"
    assert {n for n, p in model.named_parameters() if p.requires_grad} == names
    wider = set(freeze_untuned(model, replace(LORA, tune=CONNECTOR, cross_attention_ffn=True)))
    assert wider > names and any(name.endswith(".ff_gate") for name in wider)


def test_a_stage_that_tunes_nothing_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match="tunes nothing"):
        StageConfig(tune=())
    with pytest.raises(ValueError, match="does not have"):
        freeze_untuned(tiny.load(), LORA)
