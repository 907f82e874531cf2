"""Sample several answers of one model to each prompt.

    polite-flamingo sample --profile profiles/tiny.yaml --input shards --out out/sampled
    polite-flamingo sample --profile profiles/tiny.yaml --input shards --out out/sampled --sampling.kind endpoint \\
        --sampling.endpoint.urls '[http://127.0.0.1:8000/v1]' --sampling.endpoint.model NAME --sampling.temperature 1.0

The input is shards of any samples: with pictures, text-only, of several turns. The answers are to the last turn that
may be learned; the turns before are context, and its annotation stays as the reference. OUT/samples has the same
samples with `candidates`. Input that has candidates keeps them, so a second run with another model adds its answers.

The shard is the unit of commit and of resume, as in build. Rows in = sampled + quarantined: a prompt with fewer than
`sampling.least` answers is quarantined with the reason of the first that failed. What a server has answered is never
asked for again. The exit status is 1 if no prompt got its answers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polite_flamingo.config import to_yaml
from polite_flamingo.cost import Prices
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.preference.sampling import SamplingSection, count_answers, identity_of
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_stats
from ray_jobs import console
from ray_jobs.fingerprint import UNSEEN, answering_hash, by_name, fingerprints, short_hash
from ray_jobs.resumable_job import input_shards
from ray_jobs.row_job import RowJob, forecast_rows, quarantine_rows, shards_at_once

if TYPE_CHECKING:
    from ray_jobs.pipeline import ActorPool

VERSION = 1
"""Increment when the code samples other answers from the same models and settings."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Everything that sampling depends on.

    Attributes:
        input: a folder of .tar shards, one .tar, a pattern, or a list (.txt); also an address.
        out: the output folder; on several machines, one that all of them see.
        sampling: which model answers, how often and how freely.
        prices: of tokens and device time, for --estimate.
        pools: number of actors, and when a job with failing rows ends.
        fresh: delete what an earlier run left in `out` and start over.
        estimate: sample for only so many prompts, drawn at random, in OUT/estimate, and print what all will take.
    """

    input: str
    out: str
    sampling: SamplingSection
    prices: Prices = field(default_factory=Prices)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False
    estimate: int = 0


def sample(config: SampleConfig, actor: type | None = None) -> None:
    """Run the job, or what is left of it.

    Args:
        config: of the job.
        actor: replaces `SamplingActor`, for tests.

    Raises:
        ValueError: the input, the output folder or the pools are wrong; the message says what to do.
        EndpointDown: the servers do not answer as they should.
        JobFailed: the model failed.
        AllFailed: no prompt got its answers.
    """
    layout = layout_of(config.out)
    shards = input_shards(config.input, layout)
    job = job_of(config)
    with job.locked(fresh=config.fresh):
        todo = job.left_to_do(shards)
        if todo:
            try_out(config.sampling)
            served = config.sampling.kind == "endpoint"
            job.process(
                todo, lambda: pool_of(config, job, actor), config.pools.sampling, config.pools, count_answers,
                answers=served,
            )  # fmt: skip
        stats = job.summarise("sampled") if todo or not layout.stats.exists() else read_stats(layout)
        print_summary(layout, stats)
        job.fail_without("sampled", stats)


def layout_of(out: str) -> OutputLayout:
    """Return the places in the output folder."""
    return OutputLayout(root=out, samples="samples")


def job_of(config: SampleConfig) -> RowJob:
    """Return the job with the hash of its configuration and the fingerprints of its models.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
        ValueError: a folder that should hold a trained model does not.
    """
    section = config.sampling
    if section.kind == "endpoint":
        name = section.endpoint.model
        models = {"policy": {"name": name, "fingerprint": f"{UNSEEN}{name}"}}
        made_by = ""
    else:
        rewriter = section.of_flamingo()
        names = opened(rewriter.flamingo).model_names()
        models = fingerprints({f"policy {number}": name for number, name in enumerate(names, 1)})
        made_by = answering_hash(rewriter, 1)
    return RowJob(
        layout=layout_of(config.out),
        identity=short_hash({"version": VERSION, "sampling": identity_of(section), "model": made_by}),
        models=models,
        config=to_yaml(replace(config, fresh=False, estimate=0)),
    )


def try_out(section: SamplingSection) -> None:
    """Ask the servers once, so that their problems show before Ray starts. Raises `EndpointDown`."""
    if section.kind == "endpoint":
        from polite_flamingo.preference.policies import EndpointPolicy

        for line in EndpointPolicy(section).try_out():
            print(line)


def pool_of(config: SampleConfig, job: RowJob, actor: type | None = None) -> ActorPool:
    """Return the pool of actors that answer."""
    from actors.sampling import SamplingActor
    from ray_jobs.pipeline import ActorPool

    served = config.sampling.kind == "endpoint"
    models: Mapping[str, str] = {} if served else by_name(job.models)
    return ActorPool(
        actor or SamplingActor, config.sampling, config.pools.sampling, models, shards_at_once=places(config)
    )


def places(config: SampleConfig) -> int:
    """Return how many shards an actor has in work."""
    section = config.sampling
    if section.kind != "endpoint":
        return 1
    requests = section.endpoint.concurrency * len(section.endpoint.urls)
    return shards_at_once(requests, config.pools.sampling.rows_per_call * section.answers)


def print_summary(layout: OutputLayout, stats: Mapping[str, Any]) -> None:
    """Print the counts as a table."""
    given = stats.get("answers", {})
    rows = [
        ("prompts", f"{stats['rows_in']:,} in {stats['shards']:,} shards"),
        ("sampled", f"{stats['sampled']:,}"),
        ("answers", f"{given.get('given', 0):,}, {given.get('tokens', 0):,} tokens"),
        ("  cut", f"{given.get('cut', 0):,} at the limit of tokens"),
        ("  repeated", f"{given.get('repeated', 0):,} word for word within their prompt"),
    ]
    rows += [("  failed", f"{number:,} {reason}") for reason, number in stats.get("failed", {}).items()]
    rows += [*quarantine_rows(stats), ("samples", str(layout.root / layout.samples))]
    print(console.table(rows, f"\n{layout.root}"))


def sample_or_estimate(config: SampleConfig) -> None:
    """Run the command. Raises what `sample` raises."""
    if config.estimate:
        forecast_rows(
            config, sample, layout_of(config.out), {"sampling": config.pools.sampling.max_actors * places(config)}
        )
    else:
        sample(config)


main = partial(console.run, "sample", __doc__, SampleConfig, sample_or_estimate)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
