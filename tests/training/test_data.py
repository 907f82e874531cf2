"""The order of the data is a pure function of the seed, and every sample is packed or counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from polite_flamingo.packing.pack import PackingConfig
from training.data import Ingredient, LocalStream, PackedData, find_shards, groups, takes_part

PACKING = PackingConfig(window=160, max_images=4)


def data(model, mixture, seed: int = 0) -> PackedData:
    return PackedData(
        mixture=mixture, packing=PACKING, tokenizer=model.tokenizer, attention="v2", seed=seed, shards_a_group=2
    )


def keys(model, mixture, *, epoch: int = 0, seed: int = 0, rank: int = 0, size: int = 1) -> list[str]:
    made = LocalStream(data(model, mixture, seed), rank, size)
    return [key for packed in made.packed(epoch, 0) for row in packed.rows for key in row.keys]


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own(model_v2, mixture) -> None:
    first, second = keys(model_v2, mixture), keys(model_v2, mixture, epoch=1)
    assert max(Counter(first).values()) == 1 and len(first) == 42
    assert set(first) == set(second) and first != second
    assert keys(model_v2, mixture) == first != keys(model_v2, mixture, seed=1)


def test_ranks_divide_an_epoch(model_v2, mixture) -> None:
    parts = [keys(model_v2, mixture, rank=rank, size=3) for rank in range(3)]
    assert sorted(key for part in parts for key in part) == sorted(keys(model_v2, mixture))
    assert all(parts)


def test_a_group_may_be_packed_alone(model_v2, mixture) -> None:
    made = LocalStream(data(model_v2, mixture))
    whole = [[row.ids for row in packed.rows] for packed in made.packed(0, 0)]
    assert [[row.ids for row in packed.rows] for packed in made.packed(0, 2)] == whole[2:]
    assert len(whole) == len(made.groups(0)) == 4


def test_a_share_is_chosen_by_key(model_v2, mixture) -> None:
    chosen = {i for i in range(2000) if takes_part(f"a/b/{i}", 0.1, seed=0)}
    assert 150 < len(chosen) < 250
    assert chosen <= {i for i in range(2000) if takes_part(f"a/b/{i}", 0.3, seed=0)}
    assert chosen != {i for i in range(2000) if takes_part(f"a/b/{i}", 0.1, seed=1)}
    some = {"seen": Ingredient(shards=mixture["seen"].shards, fraction=0.4)}
    assert set(keys(model_v2, some)) == set(keys(model_v2, some, epoch=1)) < set(keys(model_v2, mixture))


def test_what_is_learnt_is_the_ingredients_choice(model_v2, mixture, tmp_path: Path) -> None:
    def texts(ingredient: Ingredient) -> str:
        made = LocalStream(data(model_v2, {"it": ingredient}))
        rows = [row for packed in made.packed(0, 0) for row in packed.rows]
        learnt = [i for row in rows for i, on in zip(row.ids, row.loss_mask, strict=True) if on]
        return model_v2.tokenizer.decode(learnt)

    seen, text = mixture["seen"].shards, mixture["text"].shards
    assert "The answer is 3" in texts(Ingredient(shards=seen))
    assert "The answer is" not in texts(Ingredient(shards=seen, response="raw"))
    assert "he is running" in texts(Ingredient(shards=text)), "without a rewritten text, the response"
    assert "The answer is 3" in texts(Ingredient(shards=seen, protocol="rewriting"))


def test_damage_is_counted_and_what_cannot_be_rewritten_too(model_v2, mixture, tmp_path: Path) -> None:
    whole = Path(mixture["text"].shards) / "0.tar"
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "whole.tar").write_bytes(whole.read_bytes())
    (tmp_path / "empty.tar").write_bytes(b"")
    damaged = {"it": Ingredient(shards=str(tmp_path), protocol="rewriting")}
    found = groups(find_shards(damaged), seed=0, epoch=0, shards_a_group=8)
    packed = data(model_v2, damaged).pack(found[0], 0)
    reasons = Counter(one.reason for one in packed.skipped)
    assert reasons["truncated_tar"] == reasons["empty_shard"] == 1 and packed.rows == []
    assert reasons["bad_field"] >= 7, "text without a rewritten side"


def test_what_is_not_there_is_named(mixture, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data 'llava'"):
        find_shards({**mixture, "llava": Ingredient(shards=str(tmp_path / "llava"))})
    with pytest.raises(ValueError, match="nothing to train on"):
        find_shards({})
    with pytest.raises(ValueError, match="fraction"):
        Ingredient(shards="x", fraction=0)
    with pytest.raises(ValueError, match="rewriting"):
        Ingredient(shards="x", protocol="rewriting", response="raw")
