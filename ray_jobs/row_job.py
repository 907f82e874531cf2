"""A job that sends every row of its input through one pool of actors, and sums up what its shards say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polite_flamingo.distortion.summary import total
from polite_flamingo.endpoints.answer_store import forget_finished
from polite_flamingo.faults.hints import hint
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.input_index import THREADS
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.run_info import write_stats
from polite_flamingo.usage import Usage
from ray_jobs import console
from ray_jobs.cluster import running_ray
from ray_jobs.estimate import forecast_build
from ray_jobs.resumable_job import ShardJob, input_shards

if TYPE_CHECKING:
    from ray_jobs.pipeline import ActorPool

Describe = Callable[[Sequence[Sample | Quarantined]], Mapping[str, Any]]
"""Rows of a shard -> figures for its manifest."""

MOST_SHARDS_AT_ONCE = 16
"""Shards that one actor holds in memory, at most."""


class RowJob(ShardJob):
    """Rows in = samples out + quarantined, each once."""

    def process(
        self, shards: Mapping[str, Location], pool: Callable[[], ActorPool], size: PoolConfig, pools: PoolsConfig,
        describe: Describe, *, answers: bool,
    ) -> None:  # fmt: skip
        """Send shards through a pool and commit them; add this attempt to run.json.

        Args:
            shards: name -> where, those that are left.
            pool: makes the pool once Ray is there, because actors import Ray.
            size: of the pool.
            pools: what all pools have in common.
            describe: counts a shard's rows for its manifest.
            answers: whether servers' answers are kept until their shard is committed.
        """
        forget_finished(self.layout.answers, shards)
        with self.attempt() as attempt, running_ray(pools.needs(size, shards=len(shards))):
            from actors.commit import commit_blocks
            from ray_jobs.pipeline import run_shards

            commit = partial(
                commit_blocks,
                layout=self.layout.absolute(),
                config_hash=self.identity,
                describe=describe,
                answers=answers,
            )
            for shard in run_shards(
                shards, [pool()], commit, layout=self.layout, pools=pools, config_hash=self.identity,
                waiting="starting the workers",
            ):  # fmt: skip
                attempt.add(shard)

    def summarise(self, made: str) -> dict[str, Any]:
        """Sum the manifests of all finished shards; write OUT/stats.json and return it.

        Args:
            made: what the samples are, such as "rated".
        """
        names = self.layout.finished()
        manifests = list(in_order(lambda name: read_manifest(self.layout.manifest(name)), names, THREADS))
        usage = sum((Usage(manifest.usage) for manifest in manifests), Usage())
        stats: dict[str, Any] = {
            "shards": len(manifests),
            "rows_in": sum(manifest.rows_in for manifest in manifests),
            made: sum(manifest.scored for manifest in manifests),
            "quarantined_rows": sum(manifest.quarantined for manifest in manifests),
            **total(manifest.stats for manifest in manifests),
            "usage": dict(sorted(usage.items())),
        }
        assert stats["rows_in"] == stats[made] + stats["quarantined_rows"]
        write_stats(self.layout, stats)
        return stats

    def fail_without(self, made: str, stats: Mapping[str, Any]) -> None:
        """Raise `AllFailed` if rows came in and all were quarantined."""
        if stats[made] or not stats["rows_in"]:
            return
        first = next(row for name in self.layout.finished() for row in read_quarantine(self.layout, name))
        raise console.AllFailed(
            f"not one of {stats['rows_in']:,} rows was {made}: {hint(stats['quarantined'])}. For example {first.detail}"
        )


def forecast_rows(config: Any, job: Callable[[Any], None], layout: OutputLayout, workers: Mapping[str, int]) -> None:
    """Run a job on a few rows in OUT/estimate, and print what the whole input will take.

    Args:
        config: of the job, with the number of rows as `estimate`.
        job: runs it.
        layout: of the whole job's output folder.
        workers: pool -> number of shards that the whole job will have in work there at once.

    Raises:
        ValueError: no row can be read, or the number is impossible.
    """
    if config.estimate < 0:
        raise ValueError(f"--estimate {config.estimate}: give the number of rows to try")
    shards = input_shards(config.input, layout)
    trial = OutputLayout(root=layout.root / "estimate", samples=layout.samples)

    def try_part(source: str, out: str) -> None:
        job(replace(config, input=source, out=out, fresh=True, estimate=0))

    places = {pool: min(count, len(shards)) for pool, count in workers.items()}
    forecast_build(shards, config.estimate, trial.root, try_part, config.prices, places, trial)


def quarantine_rows(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a table about quarantined rows."""
    reasons = [(f"  {reason}", f"{number:,}") for reason, number in stats.get("quarantined", {}).items()]
    return [("quarantined", f"{stats['quarantined_rows']:,}"), *reasons]


def shards_at_once(requests: int, per_call: int) -> int:
    """Return how many shards an actor has in work so that its servers never wait: enough for twice what they take.

    Args:
        requests: that the servers take at once.
        per_call: requests that one call makes.
    """
    return min(MOST_SHARDS_AT_ONCE, 1 + -(-2 * requests // max(1, per_call)))
