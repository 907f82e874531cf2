"""Groups that Ray packs are the groups that this process would have packed."""

from __future__ import annotations

import random

import pytest

from polite_flamingo.flamingo.model.tokenization import load_tokenizer
from polite_flamingo.packing.pack import Packed, PackingConfig, Skipped, pack
from polite_flamingo.storage.shards import write_shard
from tests.support.made_samples import make_sample
from training.data import Ingredient, LocalStream, PackedData
from training.ray_stream import RayStream, from_table, to_table
from training.workers_config import StreamingConfig

PACKING = PackingConfig(window=160, max_images=2)


def test_a_group_crosses_between_processes_unchanged(tiny) -> None:
    samples = [make_sample(number, number % 4) for number in range(20)]
    packed = pack(samples, load_tokenizer(tiny.config), PACKING, "v2", random.Random(0))
    packed.cut.append("a sample")
    nothing = Packed(window=160, skipped=[Skipped(key="k", reason="corrupt_image", detail="why")])
    assert len(packed.rows) > 3 and packed.skipped and any(row.images for row in packed.rows)
    table = to_table([packed, nothing, packed])
    assert list(from_table(table)) == [packed, nothing, packed]
    assert list(from_table(table.slice(1))) == [nothing, packed]
    assert all(type(one) is bool for row in next(from_table(table)).rows for one in row.loss_mask)


@pytest.mark.ray
def test_ray_gives_the_groups_of_a_local_stream_in_their_order(tiny, tmp_path, ray_session: None) -> None:
    for shard in range(6):
        write_shard(tmp_path / f"{shard}.tar", [make_sample(shard * 8 + i, (shard + i) % 4) for i in range(8)])
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    mixture = {"seen": Ingredient(shards=str(tmp_path))}
    tokenizer = load_tokenizer(tiny.config)
    data = PackedData(mixture=mixture, packing=PACKING, tokenizer=tokenizer, attention="v2", seed=3, shards_a_group=1)
    local = LocalStream(data, 1, 2)
    ray = RayStream(data, 1, 2, StreamingConfig(tasks=2, task_cpus=0.5))
    expected = list(local.packed(1, 0))
    assert len(expected) == 3 and ray.groups(1) == local.groups(1)
    assert list(ray.packed(1, 0)) == expected
    assert list(ray.packed(1, 2)) == expected[2:] and list(ray.packed(1, 3)) == []
