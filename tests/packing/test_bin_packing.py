"""How full rows get: best fit, the paper's order, and one sample per row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from polite_flamingo.packing.pack import ALIKE, PackedRow, PackingConfig
from polite_flamingo.sample import Sample
from tests.packing.test_pack import WORDS, one, packed, parts


def realistic(count: int, seed: int, images: Sequence[int] = (0, 0, 0, 1), longest: int = 600) -> list[Sample]:
    """Texts and answers about an image, of very different lengths."""
    rng = random.Random(seed)
    return [
        one(
            number,
            "is it red " * rng.randint(1, 4),
            rng.choice(WORDS) + " " + "circle " * min(longest, int(rng.lognormvariate(3.5, 1))),
            images=rng.choice(images),
        )
        for number in range(count)
    ]


def shares(samples: list[Sample], **config) -> dict[str, float]:
    return {
        fill: 1 - packed(samples, PackingConfig(fill=fill, **config)).padding
        for fill in ("alone", "random", "best_fit")
    }


@pytest.mark.parametrize("join", ["multi_turn", "isolated"])
def test_best_fit_leaves_hardly_any_padding_and_the_papers_fill_little(join):
    found = shares(realistic(800, seed=1, longest=300), join=join, window=512)
    assert found["best_fit"] >= 0.97
    assert found["best_fit"] > found["random"] > 0.9 > 0.3 > found["alone"]


def test_where_images_are_scarce_rows_take_all_they_may_and_are_equally_long():
    samples = realistic(400, seed=1, images=[1], longest=30)
    made = packed(samples, PackingConfig(fill="best_fit"))
    assert len(made.rows) == 40 and all(len(row.images) == 10 for row in made.rows)
    lengths = [len(row.ids) for row in made.rows]
    assert min(lengths) > 0.9 * max(lengths)


def test_rows_grouped_by_length_pad_each_other_little_and_blocks_of_them_come_in_any_order():
    samples = realistic(1500, seed=3, images=[0, 1, 2], longest=60)
    config = PackingConfig(fill="best_fit", window=196, max_images=3)
    plain, grouped = (packed(samples, replace(config, group_by_length=by)).rows for by in (False, True))
    assert sorted(plain, key=lambda row: row.keys) == sorted(grouped, key=lambda row: row.keys), "the same rows"

    def filled(rows: list[PackedRow]) -> float:
        batches = [[len(row.ids) for row in rows[start : start + 8]] for start in range(0, len(rows), 8)]
        return sum(map(sum, batches)) / sum(len(batch) * max(batch) for batch in batches)

    assert filled(grouped) > 0.97 > filled(plain)
    lengths = [len(row.ids) for row in grouped]
    assert lengths != sorted(lengths) and len(lengths) > 3 * ALIKE


def test_packing_by_length_does_not_order_rows_or_turns_by_length():
    samples = realistic(500, seed=2)
    rows = packed(samples, PackingConfig(fill="best_fit", join="isolated")).rows
    longest_first = sum(len(places[0]) == max(map(len, places)) for row in rows if len(places := parts(row)) > 2)
    shared = sum(len(row.keys) > 2 for row in rows)
    assert shared > 40 and longest_first < 0.6 * shared
    halves = [sum(len(row.keys) for row in half) for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :])]
    assert min(halves) > 0.6 * max(halves), "rows of many short samples lie in both halves"
