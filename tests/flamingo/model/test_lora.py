"""LoRA in place: it starts without effect, merges without a trace, and its folder has peft's format."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.lora import add_lora, load_lora, lora_layers, merge_lora, read_settings, save_lora

SETTINGS = LoraSettings(r=4, alpha=8)


@pytest.fixture
def inputs(model_v2):
    ids = torch.tensor([model_v2.tokenizer.encode("<image>What is the man doing?")])
    return torch.randn(1, 1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(5)), ids


@pytest.fixture
def trained(tiny):
    """A model whose LoRA matters, as after training."""
    model = tiny.load()
    add_lora(model, SETTINGS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(*inputs).logits


def test_fresh_lora_changes_nothing_and_alone_is_trainable(tiny, inputs):
    model = tiny.load()
    before = logits(model, inputs)
    add_lora(model, SETTINGS)
    assert torch.equal(logits(model, inputs), before)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * 7 * 2, "A and B of seven modules in two layers"
    assert all(".decoder_layer." in name and ".lora_" in name for name in trainable)
    model(*inputs, labels=inputs[1]).loss.backward()
    assert any(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
    with pytest.raises(ValueError, match="already attached"):
        add_lora(model, SETTINGS)


def test_merging_keeps_the_output_and_leaves_no_trace(tiny, trained, inputs):
    attached = logits(trained, inputs)
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    text = trained.generate(*inputs, **greedy)
    assert not torch.allclose(attached, logits(tiny.load(), inputs), atol=1e-2), "LoRA must matter here"
    merge_lora(trained)
    torch.testing.assert_close(logits(trained, inputs), attached, atol=1e-4, rtol=1e-4)
    assert torch.equal(trained.generate(*inputs, **greedy), text), "cached decoding sees images with LoRA attached, too"
    assert set(trained.state_dict()) == set(tiny.load().state_dict())
    merge_lora(trained)  # again: nothing left to do
    with pytest.raises(ValueError, match="no LoRA attached"):
        save_lora(trained, "unused")


def test_an_adapter_folder_comes_back(tiny, trained, inputs, tmp_path):
    save_lora(trained, tmp_path)
    attached = tiny.load()
    load_lora(attached, tmp_path)
    assert torch.equal(logits(attached, inputs), logits(trained, inputs))
    merged = tiny.load(lora=str(tmp_path))
    assert not lora_layers(merged)
    torch.testing.assert_close(logits(merged, inputs), logits(trained, inputs), atol=1e-4, rtol=1e-4)
    assert read_settings(tmp_path).r == 4


def test_peft_itself_loads_our_folder_over_the_plain_language_model(tiny, trained, tmp_path):
    save_lora(trained, tmp_path)
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(tiny.folder / "lm"))
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(plain, tmp_path).state_dict()
    ours = lora_layers(trained)
    assert len(ours) == 14
    for name, layer in ours.items():
        key = f"base_model.model.{name.replace('.decoder_layer.', '.')}.lora_B.default.weight"
        assert torch.equal(theirs[key], layer.lora_B["default"].weight)


@pytest.mark.parametrize("style", ["plain language model (Guanaco)", "inside open_flamingo", "peft 0.3 `.default`"])
def test_foreign_adapter_keys_all_arrive(tiny, trained, inputs, tmp_path, style):
    """0 of 56 tensors were once loaded, without an error."""
    save_lora(trained, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert not any("decoder_layer" in name for name in state)
    if "open_flamingo" in style:
        state = {name.replace(".self_attn", ".decoder_layer.self_attn").replace(".mlp", ".decoder_layer.mlp"): t
                 for name, t in state.items()}  # fmt: skip
    if "default" in style:
        state = {name.replace(".weight", ".default.weight"): t for name, t in state.items()}
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    model = tiny.load()
    load_lora(model, tmp_path)
    assert torch.equal(logits(model, inputs), logits(trained, inputs))


def test_an_adapter_that_does_not_fit_is_refused(tiny, trained, tmp_path):
    save_lora(trained, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    lost = next(iter(state))
    save_file({name: t for name, t in state.items() if name != lost}, file)
    with pytest.raises(ValueError, match=r"part 'lora' is incomplete, 1 of 28"):
        load_lora(tiny.load(), tmp_path)
    save_file(state | {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}, file)
    with pytest.raises(ValueError, match=r"1 tensors are unknown.*layers\.9"):
        load_lora(tiny.load(), tmp_path)
    with pytest.raises(ValueError, match=r"not a peft adapter"):
        load_lora(tiny.load(), tmp_path / "nowhere")
    file.unlink()
    with pytest.raises(ValueError, match=r"neither adapter_model.safetensors"):
        load_lora(tiny.load(), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("bias", "all"), ("peft_type", "IA3"), ("modules_to_save", ["lm_head"]), ("use_rslora", True)],
)
def test_what_is_not_plain_lora_is_refused(trained, tmp_path, field, value):
    save_lora(trained, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match=f"{field} = .* is not supported"):
        read_settings(tmp_path)


def test_targets_that_match_nothing_are_refused(tiny):
    with pytest.raises(ValueError, match=r"\['Wqkv'\] match no linear layer.*'q_proj'"):
        add_lora(tiny.load(), LoraSettings(r=2, alpha=2, targets=("q_proj", "Wqkv")))
