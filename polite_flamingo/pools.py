"""Number and size of a job's actors: the section `pools` of a profile. It imports no Ray, so `--help` stays fast."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job needs from a cluster to start.

    Attributes:
        cpus: logical CPUs.
        gpus: GPUs.
        autoscaling: whether the cluster grows on demand.
        section: the section of the profile that sets them.
    """

    cpus: float
    gpus: float = 0.0
    autoscaling: bool = False
    section: str = field(default="pools", compare=False)

    def of(self, kind: str) -> float:
        """Return the amount of a Ray resource, "CPU" or "GPU"."""
        return self.gpus if kind == "GPU" else self.cpus


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """A pool of actors that hold the same models.

    Attributes:
        min_actors: actors that the pool starts with.
        max_actors: actors that the pool grows to while there is work and room.
        cpus: logical CPUs per actor; a fraction lets several share one.
        gpus: GPUs per actor; a fraction lets several share one.
        rows_per_call: rows given to the model at once; if a row kills its worker, these are tried one by one.
    """

    min_actors: int = 1
    max_actors: int = 1
    cpus: float = 0.75
    gpus: float = 0.0
    rows_per_call: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min_actors <= self.max_actors:
            raise ValueError("pools: a pool needs 1 <= min_actors <= max_actors")
        if self.rows_per_call < 1:
            raise ValueError("pools: rows_per_call must be at least 1")

    def for_shards(self, shards: int) -> PoolConfig:
        """Return this pool without the actors that would have nothing to do: each works on one shard at a time."""
        most = max(1, min(self.max_actors, shards))
        return replace(self, min_actors=min(self.min_actors, most), max_actors=most)


@dataclass(frozen=True, kw_only=True)
class PoolsConfig:
    """The pools of actors. The defaults fit two cores.

    Attributes:
        rewriting: actors that hold the rewriter.
        scoring: actors that hold all scoring models.
        distorting: actors that make pairs for training the rewriter; used only by distort.
        sampling: actors that hold the model that answers; used only by sample.
        rating: actors that hold the judge; used only by rate.
        task_cpus: logical CPUs that a cluster must have beside the actors' for each of two tasks that read or write.
        max_failures_in_a_row: if more consecutive rows fail for reasons other than their content, the job ends: the
            model is broken, not the rows.
        autoscaling: whether the cluster starts machines on demand (cluster.yaml), so a job larger than its present
            size may start; otherwise such a job is refused at once.
    """

    rewriting: PoolConfig = PoolConfig()
    scoring: PoolConfig = PoolConfig(cpus=0.5)
    distorting: PoolConfig = PoolConfig(rows_per_call=64)
    sampling: PoolConfig = PoolConfig()
    rating: PoolConfig = PoolConfig()
    task_cpus: float = 0.25
    max_failures_in_a_row: int = 32
    autoscaling: bool = False

    def needs(self, *pools: PoolConfig, shards: int | None = None) -> Needs:
        """Return what a job starts with: its pools at their smallest (by default a build's), two reading or writing
        tasks. Args: shards: number that it still has to do, if known."""
        pools = pools or (self.rewriting, self.scoring)
        if shards is not None:
            pools = tuple(pool.for_shards(shards) for pool in pools)
        return Needs(
            cpus=sum(pool.min_actors * pool.cpus for pool in pools) + 2 * self.task_cpus,
            gpus=sum(pool.min_actors * pool.gpus for pool in pools),
            autoscaling=self.autoscaling,
        )
