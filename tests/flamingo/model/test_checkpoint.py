"""Weights are loaded completely or not at all: every published naming works, and every gap is refused with a remedy."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.build import build_flamingo
from polite_flamingo.flamingo.model.checkpoint import load_flamingo, load_weights, save_flamingo
from polite_flamingo.flamingo.model.lora import add_lora, lora_layers
from polite_flamingo.flamingo.model.state_dict import PARTS, canonical_state, load_state, read_state, unique_parameters

State = dict[str, torch.Tensor]
EVERYTHING_BUT_LORA = ("lora",)


def logits(model) -> torch.Tensor:
    ids = torch.tensor([model.tokenizer.encode("<image>What is the man doing?")])
    pixels = torch.randn(1, 1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(pixels, ids).logits


def randomised(tiny, seed: int = 7):
    """A model that differs from the one on disk, including the vision tower."""
    model = tiny.load()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def test_a_saved_model_comes_back_bit_for_bit(tiny, tmp_path):
    model = randomised(tiny)
    save_flamingo(model, tmp_path / "x.safetensors", parts=PARTS)
    again = tiny.load(checkpoints=(str(tmp_path / "x.safetensors"),), checkpoint_omits=())
    assert torch.equal(logits(model), logits(again))


def test_the_file_holds_each_tensor_once_under_open_flamingos_names(tiny):
    names = set(load_file(tiny.folder / "flamingo.safetensors"))
    assert "perceiver.latents" in names
    assert "lang_encoder.model.layers.1.gated_cross_attn_layer.attn.to_q.weight" in names
    assert "lang_encoder.model.layers.0.decoder_layer.self_attn.q_proj.weight" in names
    for absent in ("old_decoder_blocks", "gated_cross_attn_layers.", "lm_head", "vision_encoder"):
        assert not any(absent in name for name in names), absent


def test_half_precision_halves_the_file_and_hardly_moves_the_output(tiny, model_v2, tmp_path):
    save_flamingo(model_v2, tmp_path / "half.safetensors", dtype=torch.float16)
    half = tiny.load(checkpoints=(str(tmp_path / "half.safetensors"),))
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tiny.folder / "flamingo.safetensors").stat().st_size
    assert next(half.perceiver.parameters()).dtype == torch.float32
    torch.testing.assert_close(logits(half), logits(model_v2), atol=0.05, rtol=0.05)


def as_saved_by_torch(state: State) -> State:
    """All names of all tensors, aliases repeated: `model.state_dict()` of open_flamingo."""
    return state


def as_v1(state: State) -> State:
    """v1 kept the whole CLIP, including its unused text tower, and old LLaMAs had rotary buffers."""
    renamed = {
        (
            f"vision_encoder.visual.{name.removeprefix('vision_encoder.')}"
            if name.startswith("vision_encoder.")
            else name
        ): t
        for name, t in state.items()
    }
    renamed["vision_encoder.transformer.resblocks.0.ln_1.weight"] = torch.ones(16)
    renamed["lang_encoder.model.layers.0.decoder_layer.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    return renamed


def as_ddp(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def as_aliases_only(state: State) -> State:
    """Only the second names: `old_decoder_blocks` and `gated_cross_attn_layers`."""
    return {
        name: t for name, t in state.items() if ".decoder_layer." not in name and ".gated_cross_attn_layer." not in name
    }


def as_peft_model(state: State) -> State:
    """What instruct_flamingo saved from a PeftModel: a prefix, and peft ≥ 0.7's `.base_layer`."""
    return {
        name.replace("lang_encoder.", "lang_encoder.base_model.model.", 1).replace("q_proj.", "q_proj.base_layer."): t
        for name, t in state.items()
    }


@pytest.mark.parametrize("naming", [as_saved_by_torch, as_v1, as_ddp, as_aliases_only, as_peft_model])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_published_naming_is_understood(tiny, tmp_path, naming: Callable[[State], State], wrapped: bool):
    model = randomised(tiny)
    state = naming({name: tensor.clone() for name, tensor in model.state_dict().items()})
    torch.save({"model_state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "x.pt")
    again = tiny.load(checkpoints=(str(tmp_path / "x.pt"),), checkpoint_omits=())
    assert torch.equal(logits(model), logits(again))


@pytest.mark.parametrize("peft", ["0.2", "0.4"])
def test_lora_inside_a_checkpoint_is_loaded_in_old_and_new_naming(tiny, tmp_path, peft):
    settings = LoraSettings(r=2, alpha=6, targets=("q_proj", "down_proj"))
    model = tiny.load()
    add_lora(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3)
    state = {name.replace(".base_layer.", "."): tensor.clone() for name, tensor in model.state_dict().items()}
    if peft == "0.2":
        state = {name.replace(".default.", "."): tensor for name, tensor in state.items()}
    assert any(name.endswith("lora_A.weight" if peft == "0.2" else "lora_A.default.weight") for name in state)
    torch.save(state, tmp_path / "clever.pt")
    changes = {"checkpoints": (str(tmp_path / "clever.pt"),), "lora_in_checkpoint": settings}
    attached = load_flamingo(dataclasses.replace(tiny.config, **changes), merge=False)
    merged = load_flamingo(dataclasses.replace(tiny.config, **changes))
    assert torch.equal(logits(attached), logits(model))
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-4, rtol=1e-4)
    assert lora_layers(attached) and not lora_layers(merged)
    assert not torch.allclose(logits(merged), logits(tiny.load()), atol=1e-2), "LoRA must matter here"

    with pytest.raises(ValueError, match=r"16 tensors are unknown.*lora_A.*set lora_in_checkpoint"):
        tiny.load(checkpoints=changes["checkpoints"])
    with pytest.raises(ValueError, match=r"no tensors of lora \(8 expected"):
        tiny.load(lora_in_checkpoint=settings)
    with pytest.raises(ValueError, match=r"modules that the attached LoRA does not adapt"):
        tiny.load(
            checkpoints=changes["checkpoints"], lora_in_checkpoint=LoraSettings(r=2, alpha=6, targets=("q_proj",))
        )


def test_a_later_checkpoint_lies_over_an_earlier_one(tiny, tmp_path):
    """Like the published weights: OpenFlamingo's base first, then a fine-tuned perceiver and cross-attention."""
    tuned = randomised(tiny)
    save_flamingo(tuned, tmp_path / "tuned.safetensors", parts=("perceiver", "cross_attention"))
    both = tiny.load(checkpoints=(*tiny.config.checkpoints, str(tmp_path / "tuned.safetensors")))
    assert torch.equal(both.perceiver.latents, tuned.perceiver.latents)
    base = tiny.load()
    assert torch.equal(both.lang_encoder.lm_head.weight, base.lang_encoder.lm_head.weight)


def test_old_torch_files_are_read_as_well(tiny, model_v2, tmp_path):
    state = {name: parameter.detach() for name, parameter in unique_parameters(model_v2).items()}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert set(read_state(tmp_path / "old.pt")) == set(state)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"clever_flamingo\.pt is not a file; download"):
        read_state(tmp_path / "clever_flamingo.pt")


def test_an_unknown_tensor_is_refused(tiny, model_v2):
    state = {"perceiver.layers.7.0.to_q.weight": torch.zeros(1), "perceiver.latents": torch.zeros(4, 32)}
    with pytest.raises(ValueError, match=r"x\.pt: 1 tensors are unknown .*perceiver\.layers\.7.*sizes"):
        canonical_state(model_v2, state, source="x.pt")


def test_a_missing_part_is_refused_unless_it_is_named(tiny, tmp_path):
    model = tiny.load()
    save_flamingo(model, tmp_path / "p.safetensors", parts=("perceiver",))
    with pytest.raises(ValueError, match=r"no tensors of cross_attention \(\d+ expected.*embeddings.*checkpoint_omits"):
        tiny.load(checkpoints=(str(tmp_path / "p.safetensors"),))
    load_weights(
        model,
        [tmp_path / "p.safetensors"],
        omits=("vision_encoder", "cross_attention", "embeddings", "language_model"),
    )


def test_half_a_part_is_refused_even_if_it_may_be_omitted(tiny, tmp_path):
    state = load_file(tiny.folder / "flamingo.safetensors")
    del state["lang_encoder.model.layers.1.decoder_layer.self_attn.q_proj.weight"]
    save_file(state, tmp_path / "x.safetensors")
    model = tiny.load()
    with pytest.raises(ValueError, match=r"'language_model' is incomplete, 1 of 19 .*layers\.1.*q_proj"):
        load_weights(model, [tmp_path / "x.safetensors"], omits=("vision_encoder", "language_model"))


def test_another_shape_is_refused_before_anything_is_copied(tiny, model_v2):
    state = {name: p.detach() + 1 for name, p in unique_parameters(model_v2).items()}
    state["perceiver.latents"] = torch.zeros(8, 32)
    before = model_v2.perceiver.norm.weight.clone()
    with pytest.raises(ValueError, match=r"perceiver.latents \(8, 32\) in the file, \(4, 32\) in the model"):
        load_state(model_v2, state, omits=(), source="x")
    assert torch.equal(model_v2.perceiver.norm.weight, before)


def test_names_of_one_tensor_must_agree(model_v2):
    state = {
        "lang_encoder.model.layers.0.gated_cross_attn_layer.attn_gate": torch.zeros(1),
        "lang_encoder.gated_cross_attn_layers.0.attn_gate": torch.ones(1),
    }
    with pytest.raises(ValueError, match="contradicts another name"):
        canonical_state(model_v2, state, source="x")


def test_weights_that_nobody_brings_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"config but no weights.*would be random"):
        tiny.load(checkpoint_omits=("vision_encoder", "language_model"))
    with pytest.raises(ValueError, match=r"no checkpoint: no tensors of cross_attention.*perceiver"):
        tiny.load(checkpoints=())
    bare = tmp_path / "clip"
    bare.mkdir()
    (bare / "open_clip_config.json").write_bytes((tiny.folder / "clip" / "open_clip_config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no weights"):
        tiny.load(vision=str(bare))


class _Hostile:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_torch_file_is_data_and_never_code(tmp_path, capsys):
    torch.save({"perceiver.latents": _Hostile()}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        read_state(tmp_path / "evil.pt")
    assert "never run" not in capsys.readouterr().out
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="not a state dict"):
        read_state(tmp_path / "list.pt")


def test_tied_embeddings_are_one_tensor(tiny, model_v2):
    model = build_flamingo(tiny.config)
    state = {"lang_encoder.lm_head.weight": model_v2.lang_encoder.lm_head.weight.detach()}
    assert list(canonical_state(model, state, source="x")) == ["lang_encoder.model.embed_tokens.weight"]
