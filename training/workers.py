"""Who trains: how many workers with how much of the machine. No Ray and no torch in it, so that `--help` stays fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StreamingConfig:
    """How far and how fast groups of shards are packed ahead of a training worker (`streaming.py`).

    Attributes:
        tasks: groups read and packed at once for each worker.
        task_cpus: logical CPUs of such a task.
        ahead_bytes: of packed groups that wait for each worker, about; a few groups always may.
    """

    tasks: int = 2
    task_cpus: float = 0.5
    ahead_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        """Raises ValueError where no task could run."""
        if self.tasks < 1 or not self.task_cpus > 0 or self.ahead_bytes < 1:
            raise ValueError("workers: streaming needs tasks, task_cpus and ahead_bytes above 0")


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Who trains.

    Attributes:
        count: workers; each trains on its part of every batch.
        cpus: logical CPUs of a worker; it has as many threads.
        gpus: GPUs of a worker: 0 or 1.
        parallel: "ddp" copies the model to each worker, "fsdp" divides it between them (FSDP2), for models that do not
            fit one GPU.
        streaming: tasks that read and pack rows ahead of each worker.
        restarts: times that workers may die without a new checkpoint in between.
        autoscaling: the cluster starts machines when they are asked for (cluster.yaml), so that its present size says
            nothing; else a job that it cannot hold is refused at once.
    """

    count: int = 1
    cpus: float = 1.0
    gpus: int = 0
    parallel: Literal["ddp", "fsdp"] = "ddp"
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    restarts: int = 3
    autoscaling: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what could not start."""
        if self.count < 1 or not self.cpus > 0 or self.restarts < 0:
            raise ValueError("workers: count must be at least 1, cpus above 0, restarts not negative")
        if self.gpus not in (0, 1):
            raise ValueError("workers: gpus is 0 or 1: a worker has one GPU; set count for more")

    def needed(self, kind: str) -> float:
        """Logical "CPU"s or "GPU"s to start with: every worker, and a task of each that reads and packs."""
        if kind == "GPU":
            return float(self.count * self.gpus)
        return self.count * (self.cpus + self.streaming.task_cpus)
