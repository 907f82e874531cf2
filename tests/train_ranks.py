"""Several ranks of a torch.distributed group on this machine, without Ray, for tests of what they do together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
import torch.distributed as dist

from polite_flamingo.packing import Packed
from training.data import Group, Ingredient, LocalStream
from training.loop import Tally, Update
from training.stage import train_stage
from training.stages import StageName, TrainingConfig
from training.world import Parallel, World


class Dealt(LocalStream):
    """The rows of one rank, dealt out to all of them in turn: together they have the same rows in each update."""

    def groups(self, epoch: int) -> list[Group]:
        return self._all().groups(epoch)

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        begins = 0
        for packed in self._all().packed(epoch, 0):
            place = (self._rank - begins) % self._size
            begins += len(packed.rows)
            if first > 0:
                first -= 1
                continue
            packed.rows = packed.rows[place :: self._size]
            yield packed

    def _all(self) -> LocalStream:
        return LocalStream(
            self._mixture, self._packing, self._tokenizer, self._attention, self._seed, self._shards_a_group, 0, 1
        )


def run_rank(
    world: World, config: TrainingConfig, name: StageName, mixture: Mapping[str, Ingredient], out: Path, *, dealt: bool
) -> tuple[list[Update], Tally]:
    """One rank's whole stage; what it was told of each update."""
    updates: list[Update] = []

    def stream(model, world: World) -> LocalStream:
        kind = Dealt if dealt else LocalStream
        return kind(
            mixture, config.stage(name).packing, model.tokenizer, model.attention, config.seed, config.shards_a_group,
            world.rank, world.size,
        )  # fmt: skip

    return updates, train_stage(config, name, config.base, stream, out, world, updates.append)


def run_ranks(
    size: int, parallel: Parallel, config: TrainingConfig, name: StageName, mixture: Mapping[str, Ingredient], out: Path
) -> list[Update]:
    """The updates of a stage that `size` ranks do together, each with its own groups unless they are dealt."""
    raise NotImplementedError


def _rank(rank: int, size: int, parallel: Parallel, file: Path, job: tuple, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        updates, _ = run_rank(World.joined("cpu", parallel), *job[:-1], dealt=job[-1])
    finally:
        dist.destroy_process_group()
    if rank == 0:
        queue.put(updates)
