"""Several ranks of a torch.distributed group on this machine, without Ray, for tests of what they do together."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.fsdp

from polite_flamingo.packing.pack import Packed
from polite_flamingo.storage.location import Location, location
from training.data import Group, Ingredient, LocalStream
from training.distributed import Parallel, Ranks
from training.progress import Update
from training.run_stage import train_stage
from training.stages import StageName, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """A stage for every rank.

    Attributes:
        dealt: they share out the rows that a single rank would have in each update.
        stop: it is interrupted after so many updates, and begun again.
    """

    config: TrainingConfig
    stage: StageName
    mixture: Mapping[str, Ingredient]
    out: Path | Location
    parallel: Parallel = "ddp"
    dealt: bool = False
    stop: int = 0


class Interrupted(Exception):
    """A test pulls the plug."""


class Dealt(LocalStream):
    """The groups of a single rank, each rank with its part of every group's rows."""

    def groups(self, epoch: int) -> list[Group]:
        return self._all().groups(epoch)

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        for packed in self._all().packed(epoch, first):
            packed.rows = packed.rows[self.rank :: self.size]
            yield packed

    def _all(self) -> LocalStream:
        return LocalStream(self.data)


def run_rank(ranks: Ranks, job: RankJob) -> list[Update]:
    """One rank's part of a stage."""
    updates: dict[int, Update] = {}
    stop = job.stop

    def note(update: Update) -> None:
        if update.step == stop:
            raise Interrupted
        updates[update.step] = update

    while True:
        try:
            stream_of = Dealt if job.dealt else LocalStream
            train_stage(job.config, job.stage, job.config.base, job.mixture, location(job.out), ranks, note, stream_of)
            return list(updates.values())
        except Interrupted:
            stop = 0


def run_ranks(size: int, jobs: Sequence[RankJob], scratch: Path) -> list[list[Update]]:
    """Let `size` ranks do the jobs one after the other; the updates of each job."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.train_ranks"])  # torch and all the rest is imported once
    ranks = [context.Process(target=_rank, args=(rank, size, jobs, scratch)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * size
    found: list[list[Update]] = pickle.loads((scratch / "updates").read_bytes())
    return found


def _rank(rank: int, size: int, jobs: Sequence[RankJob], scratch: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/group", rank=rank, world_size=size)
    try:
        found = [run_rank(Ranks.joined("cpu", job.parallel), job) for job in jobs]
    finally:
        dist.destroy_process_group()
    if rank == 0:
        (scratch / "updates").write_bytes(pickle.dumps(found))
