"""The baselines of the packing benchmark are as described."""

from __future__ import annotations

import random
from itertools import pairwise

import torch

from benchmarks.pipeline.packing import Contestant, answers, conversations, cut, cut_by_tokens, widened
from polite_flamingo.packing.pack import PackedRow
from training.loss import Batch


def rows(count: int) -> list[PackedRow]:
    rng = random.Random(0)
    return [PackedRow(ids=[5] * rng.randint(1, 100), keys=[str(number)]) for number in range(count)]


def test_the_fair_baseline_fills_its_tokens_and_never_exceeds_them() -> None:
    every = rows(200)
    found = cut_by_tokens(every, 400)
    assert [row for group in found for row in group] == every
    padded = [len(group) * max(len(row.ids) for row in group) for group in found]
    assert max(padded) <= 400 and all(
        (len(group) + 1) * max(len(row.ids) for row in (*group, more[0])) > 400 for group, more in pairwise(found)
    ), "none would have taken the next row as well"


def test_non_padding_is_a_share_of_what_is_run() -> None:
    two = [PackedRow(ids=[5] * 10), PackedRow(ids=[5] * 30)]
    assert Contestant(micro_batches=cut(two, 2), isolated=False).non_padding() == 40 / 60
    assert Contestant(micro_batches=cut(two, 1), isolated=False).non_padding() == 1
    assert Contestant(micro_batches=cut(two, 2), isolated=False, width=100).non_padding() == 40 / 200


def test_a_batch_widened_with_padding_learns_no_more() -> None:
    ids = torch.tensor([[5, 6]])
    batch = Batch(
        ids_BS=ids, loss_mask_BS=ids > 5, image_numbers_BS=ids, sample_index_BS=ids * 0, vision=torch.zeros(1)
    )
    wide = widened(batch, 5, pad_id=9)
    assert wide.ids_BS.tolist() == [[5, 6, 9, 9, 9]] and wide.loss_mask_BS.tolist() == [
        [False, True, False, False, False]
    ]
    assert wide.image_numbers_BS.tolist() == [[5, 6, 0, 0, 0]] and wide.sample_index_BS.tolist() == [[0, 0, -1, -1, -1]]


def test_its_samples_are_good_ones_of_the_kinds_it_names() -> None:
    samples, choices = conversations(30)
    assert len(samples) == len(choices) and all(sample.validate() for sample in samples)
    assert {"text", "dialogue"} & {sample.task for sample in samples} and any(sample.images for sample in samples)
    more, asked = answers(5)
    assert all(
        sample.validate().images and one.response == "rewritten" for sample, one in zip(more, asked, strict=True)
    )
