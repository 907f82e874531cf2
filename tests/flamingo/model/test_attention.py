"""Which text sees which image: both semantics as arithmetic, and on a real model by changing one image at a time."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers

from polite_flamingo.flamingo.model.attention import as_locations, image_numbers

TEXT, IMAGE = 50, -1
UNSEEN = 0


def numbers(marks: str, attention: str) -> list[int]:
    """Return the image numbers of a row written as `t` (text) and `I` (an image token)."""
    return image_numbers(torch.tensor([[mark == "I" for mark in marks]]), attention)[0].tolist()


def test_v2_text_sees_the_image_before_it():
    assert numbers("ttItt", "v2") == [0, 0, 1, 1, 1]
    assert numbers("ItItt", "v2") == [1, 1, 2, 2, 2]
    assert numbers("ttt", "v2") == [0, 0, 0]


def test_v1_text_sees_the_image_after_it_and_none_after_the_last():
    assert numbers("ttItt", "v1") == [1, 1, 1, 0, 0]
    assert numbers("ttIttIt", "v1") == [1, 1, 1, 2, 2, 2, 0]
    assert numbers("IItI", "v1") == [1, 2, 3, 3]
    assert numbers("ttt", "v1") == [0, 0, 0]
    assert numbers("t", "v1") == [0], "a generated token sees no image"


def test_running_sums_of_the_locations_are_the_numbers():
    wanted = torch.tensor([[1, 1, 2, 0, 3], [0, 0, 0, 1, 1]])
    assert torch.equal(as_locations(wanted).cumsum(-1), wanted)


def ids(model, rows: list[str]) -> torch.Tensor:
    """Return rows of `t` and `I` as token ids; all text tokens differ."""
    image = model.tokenizer.image_id
    return torch.tensor([[image if mark == "I" else TEXT + place for place, mark in enumerate(row)] for row in rows])


def depends(model, rows: list[str], slots: int) -> torch.Tensor:
    """Return (B, tokens, slots): whether the first cross-attention's output at a position changes with an image slot.

    Measured before any self-attention can mix positions, by swapping one slot's pixels for others.
    """
    tokens = ids(model, rows)
    pixels = torch.randn(len(rows), slots, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    block = model.lang_encoder.gated_cross_attn_layers[0]
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(pixels, tokens)
            for slot in range(slots):
                changed = pixels.clone()
                changed[:, slot] = -changed[:, slot]
                model(changed, tokens)
    finally:
        hook.remove()
    return torch.stack([(seen[0] != other).any(-1) for other in seen[1:]], dim=-1)


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_an_image_changes_what_sees_it_and_nothing_else(attention, model_v1, model_v2):
    model = model_v1 if attention == "v1" else model_v2
    rows = ["tttIttIttt", "tItttttttt", "tttttttttt"]  # two, one and no image in two slots
    found = depends(model, rows, slots=2)
    for row, marks in enumerate(rows):
        for place, number in enumerate(numbers(marks, attention)):
            wanted = [number == 1, number == 2]
            assert found[row, place].tolist() == wanted, f"row {row} ({marks}) position {place}"
    assert found.any(), "an image must matter somewhere, or this test proves nothing"


@pytest.mark.parametrize("attention", ["v1", "v2"])
def test_beyond_the_last_slot_attention_is_uniform(attention, model_v1, model_v2):
    model = model_v1 if attention == "v1" else model_v2
    found = depends(model, ["tIttIttItI"], slots=2)
    place = numbers("tIttIttItI", attention).index(3)
    assert found[0, place].tolist() == [True, True]


def test_padding_slots_may_hold_anything(model_v2):
    """In a batch, rows with 0, 1 and 2 images get what each gets alone, except for rounding."""
    rows = ["ttttItItt", "tttttItt", "ttttttt"]
    pixels = torch.randn(3, 2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    pixels[1, 1] = 1e3
    width = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    tokens = ids(model_v2, [row.ljust(width, "t") for row in rows])
    with torch.no_grad():
        together = model_v2(pixels, tokens, attention_mask=mask).logits
        for row, marks in enumerate(rows):
            used = max(1, marks.count("I"))
            alone = model_v2(pixels[row : row + 1, :used], tokens[row : row + 1, : len(marks)]).logits
            torch.testing.assert_close(together[row : row + 1, : len(marks)], alone, atol=1e-5, rtol=1e-5)


def test_generated_v2_text_sees_the_last_image_and_generated_v1_text_none(model_v1, model_v2):
    """In cached decoding too: the test reads the first cross-attention of each generated step."""
    for model, wanted in ((model_v2, [False, True]), (model_v1, [False, False])):
        tokens = ids(model, ["tItIt"])
        first, other = (torch.randn(1, 2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
        outputs = []
        block = model.lang_encoder.gated_cross_attn_layers[0]
        for slot in (None, 0, 1):
            pixels = first.clone()
            if slot is not None:
                pixels[:, slot] = other[:, slot]
            seen: list[torch.Tensor] = []
            hook = block.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
            with torch.no_grad(), model.media(pixels):
                past = model.lang_encoder(input_ids=tokens, use_cache=True).past_key_values
                step = torch.tensor([[TEXT]])
                model.lang_encoder(input_ids=step, past_key_values=past, use_cache=True)
            hook.remove()
            outputs.append(seen[-1])
        assert [not torch.equal(outputs[0], changed) for changed in outputs[1:]] == wanted


def test_forward_keeps_the_signature_that_generate_inspects(model_v2):
    theirs = inspect.signature(transformers.LlamaForCausalLM.forward)
    assert inspect.signature(type(model_v2.lang_encoder).forward) == theirs
    assert "attention_mask" in inspect.signature(model_v2.lang_encoder.forward).parameters


def test_an_attention_mask_of_ones_may_be_left_out(model_v2):
    tokens = ids(model_v2, ["ttItt"])
    pixels = torch.randn(1, 1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with_mask = model_v2(pixels, tokens, attention_mask=torch.ones_like(tokens)).logits
        without = model_v2(pixels, tokens).logits
    torch.testing.assert_close(with_mask, without, atol=1e-6, rtol=1e-5)
