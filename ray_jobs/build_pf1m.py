"""Rewrite, score and filter raw shards into a polite dataset with a report.

    polite-flamingo build --profile profiles/tiny.yaml --input out/demo/ingested --out out/demo
    polite-flamingo build --profile profiles/tiny.yaml --input 'data/{00000..00099}.tar' --out /shared/polite \\
        --thresholds.sts 0.5 --pools.rewriting.max_actors 8
    polite-flamingo build --profile profiles/tiny.yaml --input out/demo/ingested --out out/demo --estimate 200

Two pools of Ray actors rewrite and score every row of every input shard, and each shard is committed when it is done;
then `select` applies the thresholds and writes the report. After an interruption the same command resumes: shards with
a manifest are skipped. Rows that could not be processed are in OUT/quarantine with their reasons; `replay` runs them
again.

Rewriting and scoring ignore thresholds, and nothing here knows which models a profile names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from polite_flamingo.config import to_yaml
from polite_flamingo.cost import Prices
from polite_flamingo.endpoints.answer_store import forget_finished
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.hub.worlds import world_of
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.rewriters.config import RewriterSection
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.run_info import RunInfo, write_run
from polite_flamingo.storage.tar_export import count_images
from polite_flamingo.world import World, count_foreign_rows, mostly_foreign
from ray_jobs import console, select
from ray_jobs.cluster import running_ray
from ray_jobs.estimate import forecast_build
from ray_jobs.fingerprint import by_name, config_hash, model_fingerprints, with_files
from ray_jobs.replay_ledger import settle
from ray_jobs.resumable_job import ShardJob, input_shards, with_ingests
from ray_jobs.selection_summary import conclude

MOST_SHARDS_AT_ONCE = 16
"""Shards that one actor holds in memory, at most."""

SHARDS_AT_SERVERS = 4
"""Shards that a scoring actor has in work if all of its models are behind servers, which then never wait for it."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything a build depends on.

    Attributes:
        input: a folder of .tar shards, one .tar, a pattern in quotes, or a list of these (.txt); also s3:// addresses.
        out: the output folder, or an address (s3://, gs://, az://); on several machines, all of them must reach it.
        rewriter: what rewrites: a Flamingo, a chat model behind a server or in vLLM, or nothing (`kind`).
        scoring: the models that score.
        thresholds: what is kept; applied at the end, and again by select in seconds.
        prices: of tokens and device time; applied at the end, like thresholds.
        pools: how many actors do the work.
        fresh: delete what an earlier run left in `out` and start over.
        estimate: build only so many rows, drawn at random, in OUT/estimate, and print what the whole input will take.
    """

    input: str
    out: str
    rewriter: RewriterSection
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    prices: Prices = field(default_factory=Prices)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False
    estimate: int = 0


def build(
    config: BuildConfig,
    rewriting_actor: type | None = None,
    scoring_actor: type | None = None,
    about: tuple[str, ...] = (),
) -> None:
    """Run the job, or what is left of it.

    Args:
        config: of the job.
        rewriting_actor: replaces `RewriterActor`, for tests that need a worker to fail in a certain way.
        scoring_actor: replaces `ScoringActor`, likewise.
        about: what a reader of the report must know (`RunInfo.about`).

    Raises:
        ValueError: the input, the output folder or the pools are wrong; the message says what to do.
        JobFailed: the models failed, or a machine does not see what the others see.
        AllFailed: every row was quarantined.
    """
    layout = OutputLayout(root=config.out)
    shards = input_shards(config.input, layout)
    job = job_of(config)
    with job.locked(fresh=config.fresh), ExitStack() as until_selected:
        settle(layout)
        todo = job.left_to_do(shards)
        if todo or not layout.run.exists():
            world = world_of(model["name"] for model in with_files(job.models).values())
            run = with_ingests(job.run(), shards.values())
            run = replace(run, world=world, rewriter=config.rewriter.kind, about=about)
            write_run(layout, run)
        forget_finished(layout.answers, todo)
        if todo:
            print_world_warning(world, todo)
            try_out(config.rewriter, config.scoring)
            rewrite_and_score(job, todo, config, run, rewriting_actor, scoring_actor, until_selected)
        changed = None
        if todo or not select.is_current(layout, config.thresholds, config.prices):
            changed = select.select(layout, config.thresholds, config.prices)
        conclude(layout, changed)


def job_of(config: BuildConfig) -> ShardJob:
    """Return the job with the hash of its configuration and the fingerprints of its models.

    Raises:
        FileNotFoundError: a `zoo:` or `package:` name leads nowhere.
        ValueError: a folder that should hold a trained model does not.
    """
    identity, models = identify(config)
    resolved = to_yaml(replace(config, fresh=False, estimate=0))
    return ShardJob(layout=OutputLayout(root=config.out), identity=identity, models=models, config=resolved)


def identify(config: BuildConfig) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the config hash, and the fingerprints of the models in it."""
    models = model_fingerprints(config.rewriter, config.scoring)
    return config_hash(config.rewriter, config.scoring, models, config.pools.rewriting.rows_per_call), models


def try_out(rewriter: RewriterSection, scoring: ScoringConfig) -> None:
    """Ask the servers of the rewriter and of the filters once, so that their problems show before Ray starts.

    Raises:
        EndpointDown: they do not answer as they should.
    """
    if rewriter.kind == "endpoint":
        from polite_flamingo.rewriters.endpoint import EndpointRewriter

        for line in EndpointRewriter(rewriter.endpoint).try_out():
            print(line)
    if scoring.endpoints():
        from polite_flamingo.filters import models

        for line in models.try_out(scoring, compare=rewriter.kind != "none"):
            print(line)


def print_world_warning(world: World | None, shards: Mapping[str, Location]) -> None:
    """Warn, before any work, if the first rows of the input use words that the models do not know."""
    if world is None:
        return
    foreign = count_foreign_rows(world, {name: place.open for name, place in shards.items()})
    words = [word for word, _ in foreign.words.most_common(3)]
    if warning := world.warning(mostly_foreign(foreign.counts), words):
        print(f"{warning} (This is from the first rows; the report counts all of them.)")


def rewrite_and_score(
    job: ShardJob,
    shards: Mapping[str, Location],
    config: BuildConfig,
    run: RunInfo | None = None,
    rewriting_actor: type | None = None,
    scoring_actor: type | None = None,
    until_selected: ExitStack | None = None,
) -> None:
    """Rewrite, score and commit shards on Ray, each with its manifest; add this attempt to run.json.

    Args:
        job: the job; its output folder must be locked.
        shards: name -> where.
        config: of the job.
        run: the run so far; by default, what earlier attempts recorded.
        rewriting_actor: see `build`.
        scoring_actor: see `build`.
        until_selected: keeps Ray for the selection that follows.
    """
    with job.attempt(run) as attempt, ExitStack() as until_scored:
        (until_selected or until_scored).enter_context(running_ray(config.pools.needs(shards=len(shards))))
        from actors.commit import commit_blocks
        from actors.rewriting import RewriterActor
        from actors.scoring import RawScoringActor, ScoringActor
        from ray_jobs.pipeline import ActorPool, run_shards

        rewriters = {role: model for role, model in job.models.items() if role.startswith("rewriter")}
        scorers = {role: model for role, model in job.models.items() if role not in rewriters}
        pools, scores = config.pools, RawScoringActor if config.rewriter.kind == "none" else ScoringActor
        through = [
            ActorPool(
                rewriting_actor or RewriterActor,
                config.rewriter,
                pools.rewriting,
                by_name(rewriters),
                shards_at_once=shards_at_once(config),
            ),
            ActorPool(
                scoring_actor or scores,
                config.scoring,
                pools.scoring,
                by_name(scorers),
                shards_at_once=SHARDS_AT_SERVERS if config.scoring.all_served else 1,
            ),
        ]
        commit = partial(
            commit_blocks,
            layout=job.layout.absolute(),
            config_hash=job.identity,
            describe=count_images,
            near=True,
            answers=config.rewriter.kind == "endpoint" or config.scoring.judge is not None,
        )
        for shard in run_shards(shards, through, commit, layout=job.layout, pools=pools, config_hash=job.identity):
            attempt.add(shard)


def shards_at_once(config: BuildConfig) -> int:
    """Return how many shards a rewriting actor has in work: enough for twice the requests that its servers take."""
    if config.rewriter.kind != "endpoint":
        return 1
    requests = 2 * config.rewriter.endpoint.concurrency * len(config.rewriter.endpoint.urls)
    return min(MOST_SHARDS_AT_ONCE, 1 + math.ceil(requests / config.pools.rewriting.rows_per_call))


def build_or_estimate(config: BuildConfig) -> None:
    """Run the command.

    Raises:
        ValueError, JobFailed, AllFailed: see `build`.
    """
    if config.estimate < 0:
        raise ValueError(f"--estimate {config.estimate}: give the number of rows to build")
    if not config.estimate:
        build(config)
        return
    layout = OutputLayout(root=config.out)
    shards, pools = input_shards(config.input, layout), config.pools
    at_once = SHARDS_AT_SERVERS if config.scoring.all_served else 1
    places = {
        "rewriting": pools.rewriting.max_actors * shards_at_once(config), "scoring": pools.scoring.max_actors * at_once,
    }  # fmt: skip
    workers = {pool: min(count, len(shards)) for pool, count in places.items()}

    def build_part(source: str, out: str) -> None:
        build(replace(config, input=source, out=out, fresh=True, estimate=0))

    forecast_build(shards, config.estimate, layout.root / "estimate", build_part, config.prices, workers)


main = partial(console.run, "build", __doc__, BuildConfig, build_or_estimate)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
