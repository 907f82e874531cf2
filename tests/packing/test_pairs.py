"""Both sides of a pair lie in one row, apart from each other, and see the same picture."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from polite_flamingo.packing.pack import Packed, PackingConfig, pack
from polite_flamingo.packing.pairs import PairChoice, common_limit
from polite_flamingo.sample import Sample
from tests.support.made_pairs import make_pair
from tests.support.tiny_flamingo import model_v1 as model_v1
from tests.support.tiny_flamingo import model_v2 as model_v2
from tests.support.tiny_flamingo import tiny as tiny

EVERY = PairChoice(sides=("chosen", "rejected", "anchor", "unrelated"), unrelated="Something else.")


def packed(model, samples: list[Sample], choice: PairChoice | None = None, **packing: object) -> Packed:
    config = PackingConfig(**{"window": 600, "join": "isolated", "fill": "best_fit"} | packing)
    return pack(samples, model.tokenizer, config, model.attention, random.Random(0), choice or PairChoice())


def spoken(model, row, segment: int, *, learned: bool) -> str:
    ids = [
        token for token, index, mask in zip(row.ids, row.sample_index, row.loss_mask, strict=True)
        if index == segment and mask == learned
    ]  # fmt: skip
    return model.tokenizer.decode(ids)


@pytest.mark.parametrize("version", ["model_v1", "model_v2"])
def test_each_side_is_the_whole_conversation_and_only_its_answer_is_learned(version: str, request) -> None:
    model = request.getfixturevalue(version)
    pairs = [make_pair(1, 1), make_pair(2, 2), make_pair(3, 0), make_pair(4, 1, turns=2)]
    found = packed(model, pairs)
    assert not found.skipped and not found.cut
    seen = {}
    for row in found.rows:
        assert row.samples == len(row.pairs) and len(row.keys) == 2 * len(row.pairs)
        for pair in row.pairs:
            seen[pair.key] = row, pair
    for sample in pairs:
        row, pair = seen[sample.key]
        prompts = {spoken(model, row, index, learned=False) for index in pair.segments.values()}
        assert len(prompts) == 1 and sample.turns[-1].instruction.replace("<image>", "") in prompts.pop()
        assert sample.rewritten in spoken(model, row, pair.segments["chosen"], learned=True)
        assert sample.rejected in spoken(model, row, pair.segments["rejected"], learned=True)
        numbers = [
            [number for number, at in zip(row.image_numbers, row.sample_index, strict=True) if at == index and number]
            for index in pair.segments.values()
        ]
        assert set(numbers[0]) == set(numbers[1]) and len(set(numbers[0])) == len(sample.images)
        for number in set(numbers[0]):
            assert row.images[number - 1] in [image.data for image in sample.images]
    assert sum(len(row.images) for row in found.rows) == 1 + 2 + 0 + 1, "a picture is in the row once"


def test_an_anchor_sees_a_cropped_picture_that_is_always_the_same_and_a_text_has_none(model_v2) -> None:
    pairs = [make_pair(1, 1), make_pair(3, 0)]
    first, again = packed(model_v2, pairs, EVERY), packed(model_v2, pairs[::-1], EVERY)
    by_key = [{pair.key: (row, pair) for row in one.rows for pair in row.pairs} for one in (first, again)]
    row, pair = by_key[0][pairs[0].key]
    assert set(pair.segments) == {"chosen", "rejected", "anchor", "unrelated"}
    assert spoken(model_v2, row, pair.segments["anchor"], learned=True) == spoken(
        model_v2, row, pair.segments["chosen"], learned=True
    )
    assert "Something else" in spoken(model_v2, row, pair.segments["unrelated"], learned=True)
    numbers = {
        side: {number for number, at in zip(row.image_numbers, row.sample_index, strict=True) if at == index and number}
        for side, index in pair.segments.items()
    }
    assert numbers["chosen"] == numbers["rejected"] == numbers["unrelated"] != numbers["anchor"]
    assert row.images[numbers["chosen"].pop() - 1] == pairs[0].images[0].data
    cropped = row.images[numbers["anchor"].pop() - 1]
    assert cropped != pairs[0].images[0].data
    assert cropped in by_key[1][pairs[0].key][0].images
    assert "anchor" not in by_key[0][pairs[1].key][1].segments
    assert {pair.digest for _, pair in by_key[0].values()} == {pair.digest for _, pair in by_key[1].values()}
    too_many = packed(model_v2, pairs, EVERY, max_images=1)
    assert [one.key for one in too_many.skipped] == [pairs[0].key] and too_many.reasons() == {"too_many_images": 1}


def test_a_pair_that_does_not_fit_is_cut_to_one_length(model_v2) -> None:
    long = replace(make_pair(1, 1), rejected="he runs " * 40, rewritten="he runs " * 30 + "far")
    whole = packed(model_v2, [long]).rows[0]
    found = packed(model_v2, [long], window=len(whole.ids) - 20)
    assert found.cut == [long.key]
    sizes = [found.rows[0].sample_index.count(index) for index in (0, 1)]
    assert sum(sizes) <= len(whole.ids) - 20 and max(sizes) < max(whole.sample_index.count(index) for index in (0, 1))
    assert common_limit([10, 30], 100) == 30 and common_limit([10, 90], 80) == 70 and common_limit([50, 60], 80) == 40


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rejected": None}, "bad_field"),
        ({"rewritten": None}, "bad_field"),
        ({"rejected": "  "}, "empty_response"),
        ({"rewritten": ""}, "empty_response"),
        ({"rejected": "same", "rewritten": "same "}, "bad_field"),
        ({"images": ()}, "missing_image"),
        ({"rejected": "half \ud800"}, "bad_field"),
        ({"rejected": "<image> he"}, "bad_field"),
        ({"rejected": "x" * 100_001}, "text_too_long"),
    ],
)
def test_what_is_no_pair_is_skipped_with_its_reason(model_v2, changes: dict[str, object], reason: str) -> None:
    found = packed(model_v2, [replace(make_pair(1, 1), **changes), make_pair(2, 1)])
    assert [(one.key, one.reason) for one in found.skipped] == [("made/pairs/1", reason)]
    assert sum(row.samples for row in found.rows) == 1


def test_answers_that_differ_only_beyond_the_window_are_no_pair(model_v2) -> None:
    alike = replace(make_pair(1, 0), rewritten="he runs " * 60 + "one", rejected="he runs " * 60 + "two")
    window = len(packed(model_v2, [alike], window=2000).rows[0].ids) - 20
    assert packed(model_v2, [alike], window=window).reasons() == {"text_too_long": 1}
    tiny_window = packed(model_v2, [make_pair(1, 0)], window=20)
    assert tiny_window.reasons() == {"text_too_long": 1}
