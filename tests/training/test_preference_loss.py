"""Pairs that share a row cost what they cost one by one: losses, metrics and gradients, to 1e-5."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.lora import add_lora, lora_layers, without_lora
from polite_flamingo.packing.pack import PackedRow, PackingConfig, pack
from polite_flamingo.packing.pairs import PairChoice
from polite_flamingo.preference.loss_config import LOSSES, PreferenceConfig
from polite_flamingo.sample import Image, Sample
from tests.support.made_pairs import make_pair
from training.distributed import ONE_PROCESS
from training.features import Features
from training.freezing import freeze_untuned
from training.loss import Batch, make_batch
from training.pair_batch import PairBatch
from training.preference_loss import ModelWithPreferences
from training.reference import kl_term
from training.stages import StageConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

ISOLATED = PackingConfig(window=512, max_images=12, fill="best_fit", join="isolated")
PAIRS = [make_pair(n, n % 3, turns=1 + (n == 4)) for n in range(6)]
CONFIGS = {
    **{name: PreferenceConfig(loss=(name,), reference="adapter_off") for name in LOSSES},  # type: ignore[arg-type]
    "mpo": PreferenceConfig(loss=("sigmoid", "bco_pair", "sft"), weights=(0.8, 0.2, 1.0), reference="adapter_off"),
    "mdpo, lengths": PreferenceConfig(image_anchor=1.0, length_penalty=0.01, ld_alpha=0.5, reference="adapter_off"),
}


@pytest.fixture(scope="module", params=["v1", "v2", "mpt"])
def model(request: pytest.FixtureRequest, tiny, tiny_mpt) -> FlamingoModel:
    """A policy that has moved away from its start model."""
    found = tiny_mpt.load() if request.param == "mpt" else tiny.load(attention=request.param)
    targets = ("Wqkv", "out_proj") if request.param == "mpt" else ("q_proj", "v_proj", "down_proj")
    lora = LoraSettings(r=2, alpha=4, targets=targets, dropout=0.5)
    add_lora(found, lora)
    freeze_untuned(found, StageConfig(tune=("lora",), packing=ISOLATED, preference=PreferenceConfig()))
    torch.manual_seed(1)
    for layer in lora_layers(found).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    return found


def rows_of(model: FlamingoModel, pairs: list[Sample], config: PreferenceConfig, **packing: object) -> list[PackedRow]:
    choices = [PairChoice(sides=config.sides, unrelated=f"It is {n}.") for n in range(len(pairs))]
    packed = pack(pairs, model.tokenizer, replace(ISOLATED, **packing), model.attention, random.Random(0), choices)
    assert not packed.skipped and not packed.cut
    return packed.rows


def batch_of(model: FlamingoModel, rows: list[PackedRow]) -> Batch:
    empty = torch.zeros(model.latents_shape)
    return make_batch(
        rows, Features(model, 1 << 20), empty=empty, pad_id=model.tokenizer.pad_id, device="cpu", pairs=True
    )


def results(
    model: FlamingoModel, batches: list[Batch], config: PreferenceConfig
) -> tuple[float, dict[str, float], torch.Tensor]:
    """Return an update's loss, metrics, and gradient of the LoRA, as the loop makes them of micro-batches."""
    module = ModelWithPreferences(model, config, dtype=torch.float32)
    if "kto" in config.loss:
        kl = kl_term(module, batches, ONE_PROCESS)
        batches = [replace(batch, kl=kl) for batch in batches]
    counts = [sum(each) for each in zip(*map(module.counts, batches), strict=True)]
    loss, metrics = torch.zeros(()), torch.zeros(len(module.metrics))
    for batch in batches:
        terms, found = module(batch)
        loss = loss + (terms / torch.tensor([counts[place] for place in module.term_counts])).sum()
        metrics += found / torch.tensor([counts[place] for place in module.metric_counts])
    model.zero_grad()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for name, p in model.named_parameters() if ".lora_" in name])
    return loss.item(), dict(zip(module.metrics, metrics.tolist(), strict=True)), gradient


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_batch_is_its_pairs_one_by_one(model: FlamingoModel, name: str) -> None:
    config = CONFIGS[name]
    packed, alone = rows_of(model, PAIRS, config), rows_of(model, PAIRS, config, fill="alone")
    assert len(packed) < len(alone) == 6
    together = results(model, [batch_of(model, packed)], config)
    apart = results(model, [batch_of(model, [row]) for row in alone], config)
    assert together[0] == pytest.approx(apart[0], rel=1e-5)
    assert together[1] == pytest.approx(apart[1], rel=1e-5, abs=1e-5)
    assert apart[2].norm() > 1e-3
    torch.testing.assert_close(together[2], apart[2], rtol=1e-4, atol=1e-5 * float(apart[2].norm()))


def test_a_pairs_reward_is_that_of_its_answers_read_alone(model: FlamingoModel) -> None:
    """Without packing, masks or segments: one plain row for each answer, one pass with LoRA and one without."""
    config = CONFIGS["sigmoid"]
    [row] = rows_of(model, PAIRS[:1], config)
    _, metrics, _ = results(model, [batch_of(model, [row])], config)

    def log_prob(index: int) -> float:
        ids, learned = (
            torch.tensor([[value for value, at in zip(values, row.sample_index, strict=True) if at == index]])
            for values in (row.ids, row.loss_mask)
        )
        numbers = torch.tensor([[n for n, at in zip(row.image_numbers, row.sample_index, strict=True) if at == index]])
        with torch.no_grad():
            states = model.hidden(batch_of(model, [row]).vision, ids, numbers)
            logits = model.lang_encoder.get_output_embeddings()(states)[:, :-1].log_softmax(-1)
        each = logits.gather(-1, ids[:, 1:, None])[..., 0]
        return float(each[learned[:, 1:]].sum())

    sides = row.pairs[0].segments
    policy = {side: log_prob(index) for side, index in sides.items()}
    with without_lora(model):
        start = {side: log_prob(index) for side, index in sides.items()}
    for side in ("chosen", "rejected"):
        assert metrics[f"logps/{side}"] == pytest.approx(policy[side], rel=1e-5)
        assert metrics[f"rewards/{side}"] == pytest.approx(0.1 * (policy[side] - start[side]), abs=1e-5)
        assert abs(policy[side] - start[side]) > 1e-2


def test_a_broken_picture_costs_its_pair_and_no_other(model: FlamingoModel) -> None:
    config = CONFIGS["mdpo, lengths"]
    spoiled = replace(PAIRS[1], images=(Image(extension="png", data=b"no picture"),))
    whole = batch_of(model, rows_of(model, [PAIRS[0], PAIRS[2]], config))
    broken = batch_of(model, rows_of(model, [PAIRS[0], spoiled, PAIRS[2]], config))
    assert broken.broken == (spoiled.key,) and {pair.key for pair in broken.pairs.pairs} == {PAIRS[0].key, PAIRS[2].key}
    assert results(model, [broken], config)[0] == pytest.approx(results(model, [whole], config)[0], rel=1e-5)


def test_a_batch_without_pairs_has_no_loss_and_a_gradient_of_zeros(model: FlamingoModel) -> None:
    """What a rank that has run out contributes."""
    config = CONFIGS["mpo"]
    empty, full = batch_of(model, []), batch_of(model, rows_of(model, PAIRS, config))
    module = ModelWithPreferences(model, config, dtype=torch.float32)
    assert module.counts(empty) == [0, 0, 0, 0]
    terms, metrics = module(empty)
    assert terms.tolist() == [0, 0] and not metrics.any() and terms.requires_grad
    assert results(model, [full, empty], config)[0] == pytest.approx(results(model, [full], config)[0], rel=1e-6)


def test_a_divergence_that_is_nan_is_not_taken_for_none() -> None:
    """A KL term of 0 would hide it, and the update would look sound."""
    sides = torch.tensor([[0], [1], [-1], [2]])
    pairs = PairBatch(
        pairs=(), segment_BS=sides, sides_4P=sides, tokens_G=torch.ones(3), reference_4P=torch.zeros(4, 1)
    )
    empty = torch.zeros(1, 2)
    batch = Batch(
        ids_BS=empty, loss_mask_BS=empty, image_numbers_BS=empty, sample_index_BS=empty, vision=empty, pairs=pairs
    )

    def module(score: float) -> torch.nn.Module:
        made = torch.nn.Module()
        made.forward = lambda batch, sums_of: (torch.full((4, 1), score), None)  # type: ignore[method-assign]
        return made

    assert kl_term(module(2.5), [batch], ONE_PROCESS) == 2.5
    assert kl_term(module(-2.5), [batch], ONE_PROCESS) == 0
    assert math.isnan(kl_term(module(math.nan), [batch], ONE_PROCESS))


def test_dropout_is_off(model: FlamingoModel) -> None:
    config = CONFIGS["sigmoid"]
    batch = batch_of(model, rows_of(model, PAIRS, config))
    assert results(model, [batch], config)[0] == results(model, [batch], config)[0]
