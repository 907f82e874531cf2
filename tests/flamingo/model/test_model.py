"""The assembled model: generation with images, images at every stage of encoding, and no state left by a failure."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from polite_flamingo.flamingo.config import PerceiverConfig
from polite_flamingo.flamingo.model.build import build_flamingo, has_weights


@pytest.fixture
def inputs(model_v2):
    """Two left-padded rows with one image each."""
    tokenizer = model_v2.tokenizer
    rows = [tokenizer.encode("<image>What is the man doing?"), tokenizer.encode("<image>a man")]
    width = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_id] * (width - len(row)) + row for row in rows])
    pixels = torch.randn(2, 1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return pixels, ids, (ids != tokenizer.pad_id).long()


def conditioned(model) -> bool:
    """Whether the model still holds anything from a call."""
    layers = model.lang_encoder._get_decoder_layers()
    return model.lang_encoder._use_cached_vision_x or any(
        layer.vis_x is not None or layer.media_locations is not None for layer in layers
    )


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_cached_greedy_is_the_argmax_of_uncached_steps(attention, model_v1, model_v2, inputs):
    """v1 too: uncached, a new text token lies after the last image and sees none; cached it sees none by itself."""
    model = model_v1 if attention == "v1" else model_v2
    pixels, ids, mask = inputs
    out = model.generate(pixels, ids, mask, max_new_tokens=6, do_sample=False, pad_token_id=2, eos_token_id=-1)
    for _ in range(6):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad(), model.media(pixels):
            logits = model.lang_encoder(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    assert torch.equal(out, ids)


def test_pixels_patch_tokens_and_latents_are_the_same_image(model_v2, inputs):
    pixels, ids, mask = inputs
    tokens = model_v2.patch_tokens(pixels.flatten(0, 2)).unflatten(0, pixels.shape[:3])
    with torch.no_grad():
        stages = [pixels, tokens, model_v2.latents(tokens)]
        logits = [model_v2(stage, ids, attention_mask=mask).logits for stage in stages]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    with pytest.raises(ValueError, match=r"vision_x has shape \(2, 3\)"):
        model_v2(torch.zeros(2, 3), ids)
    with pytest.raises(ValueError, match="2 frames"):
        model_v2(pixels.expand(-1, -1, 2, -1, -1, -1), ids)


def test_patch_tokens_are_taken_before_the_final_norm(model_v2, inputs):
    """The published weights saw them so; open_clip ≥ 2.23 would normalise them."""
    visual = model_v2.vision_encoder
    before = model_v2.patch_tokens(inputs[0][:, 0, 0])
    after = visual.ln_post(before)
    assert not torch.allclose(before, after, atol=1e-2)
    visual.final_ln_after_pool = False
    try:
        torch.testing.assert_close(model_v2.patch_tokens(inputs[0][:, 0, 0]), after)
    finally:
        visual.final_ln_after_pool = True


def test_beams_and_return_sequences_see_their_own_rows_images(model_v2, inputs):
    pixels, ids, mask = inputs
    settings = {"max_new_tokens": 6, "pad_token_id": 2, "length_penalty": 0.0, "do_sample": False, "num_beams": 3}
    both = model_v2.generate(pixels, ids, mask, **settings)
    for row in range(2):
        alone = model_v2.generate(pixels[row : row + 1], ids[row : row + 1], mask[row : row + 1], **settings)
        length = min(alone.shape[1], both.shape[1])
        assert torch.equal(both[row, :length], alone[0, :length])
    torch.manual_seed(0)
    many = model_v2.generate(
        pixels, ids, mask, max_new_tokens=4, do_sample=True, num_return_sequences=3, pad_token_id=2
    )
    assert many.shape[0] == 6
    assert torch.equal(many[::3, : ids.shape[1]], ids)


def test_no_state_survives_a_call_or_an_exception(model_v2, inputs):
    pixels, ids, mask = inputs
    with torch.no_grad():
        wanted = model_v2(pixels, ids, attention_mask=mask).logits
    model_v2.generate(pixels, ids, mask, max_new_tokens=2, do_sample=False, pad_token_id=2)
    assert not conditioned(model_v2)

    def explode(*args: object) -> None:
        raise RuntimeError("in the middle of a step")

    hook = model_v2.lang_encoder.model.norm.register_forward_hook(explode)
    for call in (
        lambda: model_v2.generate(pixels, ids, mask, max_new_tokens=2, pad_token_id=2),
        lambda: model_v2(pixels, ids, attention_mask=mask),
    ):
        with pytest.raises(RuntimeError, match="in the middle"):
            call()
        assert not conditioned(model_v2)
    hook.remove()
    with torch.no_grad():
        assert torch.equal(model_v2(pixels, ids, attention_mask=mask).logits, wanted)


def test_a_wrapped_language_model_is_refused_instead_of_decoding_blind(tiny, inputs):
    from peft import LoraConfig, get_peft_model

    model = tiny.load()
    model.lang_encoder = get_peft_model(model.lang_encoder, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"wrapped in a PeftModel.*add_lora"):
        model.generate(*inputs, max_new_tokens=2)
    with pytest.raises(ValueError, match="wrapped in a PeftModel"):
        model(inputs[0], inputs[1])


def test_training_sees_images_and_reaches_every_trainable_part(tiny, inputs):
    """The gradients of a step reach perceiver, cross-attention and language model, and not in the frozen tower."""
    model = tiny.load()
    pixels, ids, mask = inputs
    loss = model(pixels, ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in ("perceiver.latents", "gated_cross_attn_layer.attn.to_kv", "self_attn.q_proj", "embed_tokens"):
        assert any(part in name for name in reached), part
    assert not any(name.startswith("vision_encoder") for name in reached)


def test_building_is_reproducible_and_leaves_the_global_generator_alone(tiny):
    before = torch.random.get_rng_state()
    first, second = build_flamingo(tiny.config), build_flamingo(tiny.config)
    assert torch.equal(before, torch.random.get_rng_state())
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    other = build_flamingo(tiny.config, seed=1)
    assert not torch.equal(first.perceiver.latents, other.perceiver.latents)


def test_half_precision_spares_the_rotary_frequencies(tiny):
    model = build_flamingo(tiny.config, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.lang_encoder.model.rotary_emb.inv_freq.dtype == torch.float32
    exact = build_flamingo(tiny.config).lang_encoder.model.rotary_emb.inv_freq
    assert torch.equal(model.lang_encoder.model.rotary_emb.inv_freq, exact)


def test_sizes_are_those_of_the_config(tiny):
    config = dataclasses.replace(
        tiny.config, perceiver=PerceiverConfig(depth=3, latents=5, heads=2, dim_head=8, ff_mult=1)
    )
    model = build_flamingo(config)
    assert len(model.perceiver.layers) == 3
    assert model.latents_shape == tuple(model.perceiver.latents.shape) == (5, 32)
    assert model.perceiver.layers[0][0].to_q.out_features == 16
    block = model.lang_encoder._get_decoder_layers()[0].gated_cross_attn_layer
    assert block.attn.to_q.out_features == 32
    assert block is model.lang_encoder.gated_cross_attn_layers[0], "training code finds the blocks that run"
    every_second = build_flamingo(dataclasses.replace(tiny.config, cross_attn_every_n_layers=2))
    assert [b is not None for b in every_second.lang_encoder.gated_cross_attn_layers] == [False, True]


def test_a_language_model_with_weights_is_loaded_and_grows_for_the_new_tokens(tiny, tmp_path):
    """A plain LLaMA folder: its weights arrive, and rows for `<|endofchunk|>` and `<image>` are added."""
    assert not has_weights(str(tiny.folder / "lm"))
    words = len(build_flamingo(tiny.config).tokenizer)
    config = transformers.LlamaConfig.from_pretrained(tiny.folder / "lm")
    config.vocab_size = words - 2
    plain = transformers.LlamaForCausalLM(config)
    plain.save_pretrained(tmp_path)
    assert has_weights(str(tmp_path))
    model = build_flamingo(dataclasses.replace(tiny.config, language_model=str(tmp_path)))
    rows = model.lang_encoder.get_input_embeddings().weight
    assert rows.shape[0] == words
    assert torch.equal(rows[: words - 2], plain.get_input_embeddings().weight)
