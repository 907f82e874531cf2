"""The golden numbers of the reference code, reproduced. `pytest -s` prints the table."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.pipeline import parity
from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.attention import image_numbers
from polite_flamingo.flamingo.model.lora import add_lora, load_lora
from polite_flamingo.flamingo.model.state_dict import canonical_state, load_state
from tests.support.reference import SHARED

REFERENCE = SHARED / "reference"
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "v1_cases.safetensors").is_file(),
    reason=f"{REFERENCE} is not there; set POLITE_FLAMINGO_SHARED to the folder with the reference's numbers",
)


@pytest.fixture(scope="module")
def comparisons() -> list[parity.Comparison]:
    found = parity.compare_all(REFERENCE)
    print("\n" + parity.table(found))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "cases"),
    [("v1", 12), ("v2_llama", 10), ("v2_mpt", 8), ("lora attached", 2), ("lora merged", 2), ("tokenization", 6)],
)
def test_every_case_agrees_with_the_reference(comparisons, group, cases):
    own = [c for c in comparisons if c.group == group]
    assert len({c.case for c in own}) == cases, "a case that is not compared proves nothing"
    failed = [f"{c.case} {c.quantity}: {c.difference:.3g} > {c.tolerance:.3g}" for c in own if not c.passed]
    assert not failed


@pytest.mark.slow
def test_all_kinds_of_quantities_were_compared(comparisons):
    quantities = {c.quantity for c in comparisons}
    assert {"logits", "loss", "greedy", "greedy_eos2", "greedy_ngram3", "beam3_lp0", "ids"} <= quantities
    assert {"prefill logits", "step1 logits", "chunk logits", "continuation logits"} <= quantities


@pytest.mark.parametrize("kind", parity.KINDS)
def test_each_position_sees_the_images_that_the_reference_measured(kind):
    image = parity.read_config(REFERENCE, kind)["special"]["image"]
    compared = 0
    for name, case in parity.read_cases(REFERENCE, kind).items():
        if "media_visible" not in case:
            continue
        golden = case["media_visible"].bool()
        numbers = image_numbers(case["input_ids"] == image, "v1" if kind == "v1" else "v2")
        slots = torch.arange(golden.shape[-1]) + 1
        seen = (numbers[..., None] == slots) | (numbers[..., None] > golden.shape[-1])
        mask = case["attention_mask"] == 1
        assert torch.equal(seen[mask], golden[mask]), f"{kind} {name}"
        compared += int(mask.sum())
    assert compared > 100


def test_the_published_files_key_patterns_load():
    """OpenFlamingo's base, and clever_flamingo.pt as two generations of code saved it."""
    config = parity.read_config(REFERENCE, "v1")
    for title, patterns in config["checkpoint_key_patterns_expected_from_code"].items():
        model = parity.reference_model(REFERENCE, "v1")
        if "lora" in str(patterns):
            add_lora(model, LoraSettings(r=4, alpha=2))
        known = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
        state: dict[str, torch.Tensor] = {}
        for pattern, count in patterns.items():
            shape = re.escape(pattern).replace(re.escape("{i}"), r"\d+")
            if "inv_freq" in pattern:
                state |= {pattern.replace("{i}", str(layer)): torch.ones(8) for layer in range(count)}
                continue
            names = [name for name in known if re.fullmatch(shape, name)]
            assert len(names) == count, f"{title}: {pattern}"
            state |= {name: known[name] + 1 for name in names}
        before = model.perceiver.latents.clone()
        canonical = canonical_state(model, state, source=title)
        load_state(model, canonical, omits=("vision_encoder", "language_model"), source=title)
        assert torch.equal(model.perceiver.latents, before + 1)


def test_guanacos_adapter_arrives_whole_after_wrapping(tmp_path):
    """The reference's adapter file names lack `.decoder_layer`; there 0 of 56 tensors loaded, here all do."""
    adapter = parity.read_config(REFERENCE, "lora")["adapter_config"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    golden = {n: t.float() for n, t in load_file(REFERENCE / "lora_adapter_model.safetensors").items()}
    torch.save(golden, tmp_path / "adapter_model.bin")
    model = parity.reference_model(REFERENCE, "v1")
    load_lora(model, tmp_path)
    case = parity.read_cases(REFERENCE, "v1")["two_interleaved"]
    wanted = parity.read_cases(REFERENCE, "lora")["two_interleaved"]["lora.logits"]
    with torch.no_grad():
        ours = model(case["vision_x"], case["input_ids"], attention_mask=case["attention_mask"]).logits
    mask = case["attention_mask"] == 1
    assert float((ours[mask] - wanted[mask]).abs().max()) <= parity.LORA_TOLERANCE
