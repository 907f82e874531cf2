"""A packed row trains as its samples would."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.attention import isolation
from polite_flamingo.flamingo.model.lora import add_lora
from polite_flamingo.packing.pack import PackedRow, PackingConfig, pack
from polite_flamingo.sample import Image, Sample
from tests.support.made_samples import make_sample
from training.features import Features
from training.freezing import freeze_untuned
from training.loss import ModelWithLoss, make_batch
from training.stages import CONNECTOR, StageConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

LORA = StageConfig(tune=("lora",), lora=LoraSettings(r=2, alpha=2))


def rows_of(model: FlamingoModel, samples: Sequence[Sample], **packing: object) -> list[PackedRow]:
    config = PackingConfig(**{"window": 400, "max_images": 8, "join": "isolated", "fill": "best_fit"} | packing)
    packed = pack(samples, model.tokenizer, config, model.attention, random.Random(0))
    assert not packed.skipped and not packed.cut
    return packed.rows


def loss_of(model: FlamingoModel, rows: list[PackedRow], *, isolated: bool = True, cache: int = 1 << 20) -> float:
    features = Features(model, cache)
    latents, width = model.latents_shape
    shape = (latents, width) if features.kind == "latents" else (1, 4, width)
    batch = make_batch(rows, features, empty=torch.zeros(shape), pad_id=model.tokenizer.pad_id, device="cpu")
    with torch.no_grad():
        loss, _ = ModelWithLoss(model, isolated=isolated, dtype=torch.float32)(batch)
    return float(loss)


@pytest.fixture(params=["v1", "v2", "mpt"])
def model(request: pytest.FixtureRequest, tiny, tiny_mpt) -> FlamingoModel:
    found = tiny_mpt.load() if request.param == "mpt" else tiny.load(attention=request.param)
    freeze_untuned(found, replace(LORA, tune=CONNECTOR))
    return found


def test_samples_that_share_a_row_apart_train_as_each_alone(model: FlamingoModel) -> None:
    samples = [make_sample(n, n % 3) for n in range(6)]
    packed = rows_of(model, samples)
    alone = rows_of(model, samples, fill="alone")
    assert len(packed) < len(alone) == 6
    assert loss_of(model, packed) == pytest.approx(sum(loss_of(model, [row]) for row in alone), rel=1e-4)
    assert loss_of(model, alone) == pytest.approx(sum(loss_of(model, [row]) for row in alone), rel=1e-4)


def test_another_samples_picture_changes_nothing_and_the_own_one_does(model: FlamingoModel) -> None:
    samples = [make_sample(n, 1) for n in range(3)]
    [row] = rows_of(model, samples)
    place = row.keys.index(samples[0].key)
    only = [supervised and turn == place for supervised, turn in zip(row.loss_mask, row.sample_index, strict=True)]
    judged = replace(row, loss_mask=only)
    before = loss_of(model, [judged])
    for other in range(3):
        images = list(row.images)
        images[other] = make_sample(77, 1).images[0].data
        after = loss_of(model, [replace(judged, images=images)])
        if other != place:
            assert after == pytest.approx(before, rel=1e-5)
        elif model.attention == "v2":  # in v1 a response sees its picture only through the prompt's text before the tag
            assert after != pytest.approx(before, rel=1e-5)


def test_turns_see_what_was_said_but_no_foreign_picture(model_v2: FlamingoModel) -> None:
    """Multi-turn: the text of earlier turns matters, and a text-only turn attends to no image."""
    [row] = rows_of(model_v2, [make_sample(1, 1), make_sample(101, 0)], join="multi_turn")
    text = row.keys.index("made/train/101")
    assert {number for number, turn in zip(row.image_numbers, row.sample_index, strict=True) if turn == text} == {0}
    assert loss_of(model_v2, [row], isolated=False) != pytest.approx(loss_of(model_v2, [row]), rel=1e-4)


def test_isolation_counts_positions_from_each_start() -> None:
    mask, positions = isolation(torch.tensor([[0, 0, 1, 1, 1, -1]]), torch.float32)
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_a_broken_picture_costs_its_sample_and_no_other(model_v2: FlamingoModel) -> None:
    samples = [make_sample(n, 1) for n in range(3)]
    rows = rows_of(model_v2, samples)
    spoiled = replace(samples[1], images=(Image(extension="png", data=b"no picture"),))
    broken = rows_of(model_v2, [samples[0], spoiled, samples[2]])
    _, width = model_v2.latents_shape
    features = Features(model_v2, 1 << 20)
    batch = make_batch(broken, features, empty=torch.zeros(1, 4, width), pad_id=0, device="cpu")
    assert batch.broken == (samples[1].key,)
    mine = sum(loss for row in rows for loss, turn in zip(row.loss_mask, row.sample_index, strict=True)
               if row.keys[turn] == samples[1].key)  # fmt: skip
    assert mine > 5
    assert int(batch.loss_mask_BS.sum()) == sum(sum(row.loss_mask) for row in rows) - mine


@pytest.mark.parametrize("tune", [("lora",), CONNECTOR])
def test_cached_features_give_the_same_loss_and_are_bounded(tiny, tune) -> None:
    model = tiny.load()
    add_lora(model, LORA.lora)
    freeze_untuned(model, replace(LORA, tune=tune))
    rows = rows_of(model, [make_sample(n % 4, 1) for n in range(4)] + [make_sample(50, 2)])
    assert loss_of(model, rows, cache=0) == pytest.approx(loss_of(model, rows), rel=1e-6)
    features = Features(model, 10_000)
    images = [image for row in rows for image in row.images]
    first = features.get(images)
    assert (features.kind == "latents") == (tune == ("lora",))
    assert features.cache.misses == len(set(images))
    again = features.get(images)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert features.cache.misses < 2 * len(set(images)) and features.cache.size <= 10_000
