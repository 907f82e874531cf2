"""Rate sampled answers by a rule, a reward model, or a chat model that judges.

    polite-flamingo rate --profile profiles/tiny.yaml --input out/sampled/samples --out out/rated --judge.kind rule
    polite-flamingo rate --profile profiles/tiny.yaml --input out/sampled/samples --out out/rated \\
        --judge.kind endpoint --judge.endpoint.urls '[http://127.0.0.1:8000/v1]' --judge.endpoint.model NAME
    polite-flamingo rate --profile mine.yaml --input out/sampled/samples --out out/rated --estimate 20

OUT/rated has the same samples with ratings added to every candidate. Nothing is averaged and no pair is made here. To
have another judge rate too, rate what the first has rated.

The shard is the unit of commit and of resume, as in build. Rows in = rated + quarantined. A reply that cannot be read
is asked for once more with its fault named; a sample of which an answer then still has no rating is quarantined, with
the fault in its detail. What a judge has answered is never paid for again. At `judge.max_cost` the job stops, keeps
what it has, and the same command goes on once the limit is raised. The exit status is 1 then, and if no sample was
rated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from polite_flamingo.config import to_yaml
from polite_flamingo.cost import Prices, cost_of
from polite_flamingo.formatting import money, trimmed
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.preference.judges import prompt
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.judges.endpoint import EndpointJudge
from polite_flamingo.preference.judges.rule import load_rule
from polite_flamingo.preference.judges.servers import Budget, price_of
from polite_flamingo.preference.rating import check_rateable, count_ratings
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.ledger import OutputLayout, undamaged
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.run_info import read_stats
from polite_flamingo.storage.shards import read_shard
from ray_jobs import console
from ray_jobs.fingerprint import UNSEEN, by_name, fingerprints, short_hash, with_files
from ray_jobs.resumable_job import LEDGER_OUTPUTS, input_shards
from ray_jobs.row_job import RowJob, forecast_rows, quarantine_rows, shards_at_once

if TYPE_CHECKING:
    from ray_jobs.pipeline import ActorPool

VERSION = 1
"""Increment when the code makes other ratings from the same judges and settings."""

LOOKED_AT = 3
"""Shards in which the driver looks for answers of the judge itself; the actors look at every row."""


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """Everything that rating depends on.

    Attributes:
        input: a folder of .tar shards of samples with candidates, one .tar, a pattern, or a list (.txt); or
            an address.
        out: the output folder; on several machines, one that all of them see.
        judge: who rates, how often and in which order.
        prices: of tokens and device time.
        pools: number of actors, and when a job with failing rows ends.
        fresh: delete what an earlier run left in `out` and start over.
        estimate: rate only so many samples, drawn at random, in OUT/estimate, and print what all will take and cost.
    """

    input: str
    out: str
    judge: JudgeSection
    prices: Prices = field(default_factory=Prices)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False
    estimate: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a limit without a price: it would never be reached."""
        if self.judge.max_cost is not None and not price_of({"prompt_tokens": 1, "generated_tokens": 1}, self.prices):
            raise ValueError(
                "judge.max_cost needs the price of a million tokens, such as --prices.tokens "
                "'{judge: {prompt: 1, generated: 3}}'"
            )


def rate(config: RateConfig, actor: type | None = None) -> None:
    """Run the job, or what is left of it.

    Args:
        config: of the job.
        actor: replaces `RatingActor`, for tests.

    Raises:
        ValueError: the input, the output folder or the pools are wrong; the message says what to do.
        EndpointDown: the servers do not answer as they should, or as another model than before.
        JobFailed: the judge failed, or has cost what it may.
        AllFailed: no sample was rated.
    """
    layout = layout_of(config.out)
    shards = input_shards(config.input, layout)
    job = job_of(config)
    with job.locked(fresh=config.fresh):
        todo = job.left_to_do(shards)
        if todo:
            named = try_out(config, layout)
            refuse_own_answers(config.judge, todo, named)
            served = config.judge.kind == "endpoint"
            try:
                job.process(
                    todo, lambda: pool_of(config, job, named, actor), size_of(config), config.pools, count_ratings,
                    answers=served,
                )  # fmt: skip
            except console.JobFailed:
                print_summary(layout, job.summarise("rated"), config.prices)  # of what is there
                raise
        stats = job.summarise("rated") if todo or not layout.stats.exists() else read_stats(layout)
        print_summary(layout, stats, config.prices)
        job.fail_without("rated", stats)


def layout_of(out: str) -> OutputLayout:
    """Return the places in the output folder."""
    return OutputLayout(root=out, samples="rated")


def job_of(config: RateConfig) -> RowJob:
    """Return the job with the hash of its configuration and the fingerprint of its judge.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
    """
    judge = config.judge
    if judge.kind == "reward":
        models = fingerprints({"judge": judge.reward})
    else:
        name = judge.model or judge.rule
        models = {"judge": {"name": name, "fingerprint": f"{UNSEEN}{name}"}}
    decides = {
        "version": VERSION,
        "judge": judge.identity(),
        "model": models["judge"]["fingerprint"],
        "wording": prompt.wording() if judge.kind == "endpoint" else [],
    }
    return RowJob(
        layout=layout_of(config.out),
        identity=short_hash(decides),
        models=models,
        config=to_yaml(replace(config, fresh=False, estimate=0)),
        outputs=(*LEDGER_OUTPUTS, "judge.json"),
    )


def try_out(config: RateConfig, layout: OutputLayout) -> str:
    """Ask the judge once before Ray starts; return how it names itself, which OUT/judge.json keeps for later attempts.

    Raises:
        ValueError: the rule is none.
        EndpointDown: the servers do not answer as they should, or as another model than in earlier attempts.
    """
    judge = config.judge
    if judge.kind == "rule":
        load_rule(judge.rule)
    if judge.kind == "reward" and not isinstance(judge.reward, str):
        from polite_flamingo.filters.served_models import ServedReward

        for line in ServedReward(judge.reward).try_out():
            print(line)
    if judge.kind != "endpoint":
        return ""
    place = layout.root / "judge.json"
    with undamaged(place, "delete it; it says which model judged before"):
        before = str(json.loads(place.read_text())["model"]) if place.exists() else ""
    asked = EndpointJudge(judge, Budget(config.prices), before)
    for line in asked.try_out():
        print(line)
    named = asked.servers.named
    if named and not before:
        place.put(json.dumps({"model": named}) + "\n")
    return named


def refuse_own_answers(judge: JudgeSection, shards: Mapping[str, Location], named: str) -> None:
    """Raise `ValueError` if the first shards hold answers of the judge itself, before anything is paid for."""
    for place in islice(shards.values(), LOOKED_AT):
        for row in read_shard(place):
            if isinstance(row, Sample) and row.candidates:
                try:
                    check_rateable(row, judge, named)
                except BadSample as bad:
                    raise ValueError(bad.detail) from None


def size_of(config: RateConfig) -> PoolConfig:
    """Return the size of the pool: one actor where there is a limit of cost, so that it can count."""
    size = config.pools.rating
    return size if config.judge.max_cost is None else replace(size, min_actors=1, max_actors=1)


def pool_of(config: RateConfig, job: RowJob, named: str, actor: type | None = None) -> ActorPool:
    """Return the pool of actors that rate."""
    from actors.rating import RaterConfig, RatingActor
    from ray_jobs.pipeline import ActorPool

    rater = RaterConfig(judge=config.judge, prices=config.prices, named=named)
    models = by_name(with_files(job.models))
    return ActorPool(actor or RatingActor, rater, size_of(config), models, shards_at_once=places(config))


def places(config: RateConfig) -> int:
    """Return how many shards an actor has in work."""
    if config.judge.kind != "endpoint":
        return 1
    requests = config.judge.endpoint.concurrency * len(config.judge.endpoint.urls)
    return shards_at_once(requests, config.pools.rating.rows_per_call * max(1, config.judge.orders))


def print_summary(layout: OutputLayout, stats: Mapping[str, Any], prices: Prices) -> None:
    """Print the counts as a table."""
    counts = stats.get("ratings", {})
    rows = [
        ("samples", f"{stats['rows_in']:,} in {stats['shards']:,} shards"),
        ("rated", f"{stats['rated']:,}, {counts.get('answers', 0):,} answers, {counts.get('ratings', 0):,} ratings"),
    ]
    for name, number in stats.get("numbers", {}).items():
        rows.append((f"  {name}", f"{trimmed(stats['sums'][name] / number, 2)} on average of {number:,}"))
    if counts.get("asked"):
        rows.append(
            (
                "requests",
                f"{counts['asked']:,}, {counts['asked_again']:,} asked again, {counts['lenient']:,} read leniently",
            )
        )
    rows += [("  fault", f"{number:,} {fault}") for fault, number in stats.get("faults", {}).items()]
    rows += quarantine_rows(stats)
    rows += [("  of these", f"{number:,} {fault}") for fault, number in stats.get("not_rated", {}).items()]
    if prices.known:
        rows.append(("cost", money(cost_of(stats["usage"], prices).money, prices.currency)))
    rows.append(("samples", str(layout.root / layout.samples)))
    print(console.table(rows, f"\n{layout.root}"))


def rate_or_estimate(config: RateConfig) -> None:
    """Run the command. Raises what `rate` raises."""
    if config.estimate:
        forecast_rows(config, rate, layout_of(config.out), {"rating": size_of(config).max_actors * places(config)})
    else:
        rate(config)


main = partial(console.run, "rate", __doc__, RateConfig, rate_or_estimate)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
