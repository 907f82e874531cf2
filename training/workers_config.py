"""Configuration of training workers: how many, and their share of the machine. No Ray or torch, for a fast `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polite_flamingo.pools import Needs


@dataclass(frozen=True, kw_only=True)
class StreamingConfig:
    """How groups of shards are packed ahead of a training worker (`ray_stream.py`).

    Attributes:
        tasks: groups read and packed at once for each worker.
        task_cpus: logical CPUs per task.
        ahead_bytes: approximate buffer of packed groups per worker, in bytes; a few groups are always allowed.
    """

    tasks: int = 2
    task_cpus: float = 0.5
    ahead_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        """Raise ValueError if no task could run."""
        if self.tasks < 1 or not self.task_cpus > 0 or self.ahead_bytes < 1:
            raise ValueError("workers: streaming needs tasks, task_cpus and ahead_bytes above 0")


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """The `workers` section of a profile.

    Attributes:
        count: number of workers; each trains on its part of every batch.
        cpus: logical CPUs per worker, which is also its number of threads.
        gpus: GPUs per worker, 0 or 1.
        parallel: "ddp" copies the model to each worker; "fsdp" shards it over them (FSDP2), for models that do not fit
            one GPU.
        streaming: tasks that read and pack rows ahead of each worker.
        restarts: how often workers may die without a new checkpoint in between.
        autoscaling: the cluster adds machines on demand (cluster.yaml), so a job larger than its present size may
            start; otherwise such a job is refused at once.
    """

    count: int = 1
    cpus: float = 1.0
    gpus: int = 0
    parallel: Literal["ddp", "fsdp"] = "ddp"
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    restarts: int = 3
    autoscaling: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if no worker could start."""
        if self.count < 1 or not self.cpus > 0 or self.restarts < 0:
            raise ValueError("workers: count must be at least 1, cpus above 0, restarts not negative")
        if self.gpus not in (0, 1):
            raise ValueError("workers: gpus is 0 or 1, because a worker uses one GPU; raise count for more")

    def needs(self) -> Needs:
        """Return what training needs to start: every worker, and one packing task for each."""
        return Needs(
            cpus=self.count * (self.cpus + self.streaming.task_cpus),
            gpus=float(self.count * self.gpus),
            autoscaling=self.autoscaling,
            section="workers",
        )
