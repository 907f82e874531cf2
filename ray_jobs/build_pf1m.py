"""Raw shards in, a polite, filtered, explained dataset out.

    python -m ray_jobs.build_pf1m --profile profiles/tiny.yaml --input out/demo/ingested --out out/demo

Rewrites and scores every row of every input shard on two pools of Ray actors, commits shard by shard, then selects
(`ray_jobs/select.py`) and writes the report. A shard with a manifest is not made again, so the same command after any
interruption goes on where it stopped, and after the end finds nothing to do. Where the input of such a shard has
changed since, the folder is refused. What could not be processed lies in OUT/quarantine with its reason;
`ray_jobs/replay.py` runs it again.

Thresholds play no part in rewriting and scoring. Nothing here knows which models a profile names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from polite_flamingo.filters.judge import Thresholds
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.storage import journal
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.ledger import OutputLayout, exclusive, read_manifest, shard_names, unfinished
from polite_flamingo.storage.shards import write_atomically
from polite_flamingo.world import World, another, look_at, world_of
from ray_jobs import console, select
from ray_jobs.cluster import PoolsConfig, running_ray
from ray_jobs.fingerprint import by_name, config_hash, model_fingerprints
from ray_jobs.replay_ledger import settle, source_of
from ray_jobs.run_info import Work, add_ingests, add_work, begin_run, read_run, write_run

SAMPLED_MANIFESTS = 1000
SHARDS_A_RUN = 10_000
"""Ray Data's driver keeps some 17 kB a shard, most of which the end of a run gives back. A job of more shards is
several runs, one after the other; each starts the actors anew, which is little beside the hours of so many shards."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything a build depends on.

    Attributes:
        input: a folder of .tar shards, one .tar, or a pattern in quotes.
        out: the output folder; on several machines, one that all of them see.
        rewriter: the model that rewrites, and how it decodes.
        scoring: the models that score.
        thresholds: what is kept; applied at the end, and again by ray_jobs.select in seconds.
        pools: how many actors do the work.
        fresh: delete what an earlier run left in `out` and start over.
    """

    input: str
    out: str
    rewriter: RewriterConfig
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False


def build(config: BuildConfig, rewriting_actor: type | None = None, scoring_actor: type | None = None) -> None:
    """Do the whole job, or what is left of it.

    Args:
        config: of the job.
        rewriting_actor: instead of `RewriterActor`; for tests that need a worker to fail in a certain way.
        scoring_actor: instead of `ScoringActor`, likewise.

    Raises:
        ValueError: the input, the output folder or the pools are not right; the message says what to do.
        JobFailed: the models failed, or a machine does not see what the others see.
        AllFailed: every row was quarantined.
    """
    layout = OutputLayout(root=Path(config.out))
    shards = shard_names(config.input, layout.root, print)
    refuse_foreign((shards if config.fresh else unfinished(layout, shards)).values())
    identity, models = identify(config)
    with exclusive(layout.root):
        if config.fresh:
            layout.clear()
        refuse_other_configuration(layout, identity)
        settle(layout)
        todo = unfinished(layout, shards)
        done = [name for name in shards if name not in todo]
        refuse_changed_input(layout, {name: shards[name] for name in done})
        say_other_input(layout, shards)
        if done:
            print(f"{len(done)} of {len(shards)} shards are already done: {console.names_of(done)}")
        if todo:
            resolved = console.to_yaml(replace(config, fresh=False))
            run = read_run(layout)
            world = world_of(model["name"] for model in models.values())
            say_another_world(world, todo)
            if run is None or run.config_hash != identity:
                run = begin_run(identity, models, resolved)  # of another, no shard was finished
            run = replace(add_ingests(run, shards.values()), config=resolved, world=world)
            write_atomically(layout.config, resolved)
            write_run(layout, run)
            layout.stats.unlink(missing_ok=True)
            started = time.monotonic()
            work = process(todo, config, layout, identity, rewriting_actor, scoring_actor)
            write_run(layout, add_work(run, work, time.monotonic() - started))
        changed = None
        if todo or not select.is_current(layout, config.thresholds):
            changed = select.select(layout, config.thresholds)
        select.conclude(layout, changed)


def say_another_world(world: World | None, shards: Mapping[str, Path]) -> None:
    """Print, before any work, that the input speaks of what the models do not know, as far as its first rows tell."""
    if world is None:
        return
    look = look_at(world, shards)
    words = [word for word, _ in look.words.most_common(3)]
    if warning := world.warning(another(look.counts), words):
        print(f"{warning} (Of the first rows; the report counts all.)")


def identify(config: BuildConfig) -> tuple[str, dict[str, dict[str, str]]]:
    """The config hash, and the fingerprints of the models in it."""
    models = model_fingerprints(config.rewriter, config.scoring)
    return config_hash(config.rewriter, config.scoring, models, config.pools.rewriting.rows_per_call), models


def refuse_other_configuration(layout: OutputLayout, identity: str) -> None:
    """Raise `ValueError` when the folder holds shards made by other models, prompts or settings.

    OUT/run.json was written before any manifest and names their configuration; where it names this one, a sample of the
    manifests is read, as a million would take a minute.
    """
    names, run = layout.finished(), read_run(layout)
    if run is not None and run.config_hash == identity:
        names = names[:: len(names) // SAMPLED_MANIFESTS + 1]
    for name in names:
        found = read_manifest(layout.manifest(name)).config_hash
        if found != identity:
            raise ValueError(
                f"{layout.root} holds shards of another configuration ({found}, now {identity}; it is in "
                f"{layout.config}); give another --out, or --fresh to delete them and start over"
            )


def refuse_changed_input(layout: OutputLayout, done: Mapping[str, Path]) -> None:
    """Raise `ValueError` where a finished shard was made of something else than its input holds now.

    Args:
        layout: of the output folder.
        done: the input of each finished shard, by name.
    """

    def still_there(name: str) -> bool | None:
        made_of = read_manifest(layout.manifest(name)).input
        return made_of.is_still_at(done[name]) if made_of else None

    found = {name: still_there(name) for name in done}
    if changed := [name for name, same in found.items() if same is False]:
        raise ValueError(
            f"the input of {len(changed):,} of {len(done):,} finished shards has changed since {layout.root} was made: "
            f"{console.names_of(changed)}; give another --out, or --fresh to delete all of it and start over; to make "
            f"only these again, delete their manifests first ({layout.manifest('NAME')}, NAME~replay-*.json)"
        )
    if unknown := sum(same is None for same in found.values()):
        print(
            f"{unknown:,} of {len(done):,} finished shards were made by an earlier version: whether their input has "
            "changed since cannot be checked"
        )


def say_other_input(layout: OutputLayout, shards: Mapping[str, Path]) -> None:
    """Print which finished shards are not of this input: they stay part of what comes out."""
    if others := [name for name in layout.finished() if source_of(name) not in shards]:
        print(f"{layout.root} also holds {len(others):,} shards that are not in this input: {console.names_of(others)}")


def process(
    shards: Mapping[str, Path],
    config: BuildConfig,
    layout: OutputLayout,
    identity: str,
    rewriting_actor: type | None = None,
    scoring_actor: type | None = None,
) -> Work:
    """Rewrite, score and commit shards on Ray. Afterwards each has its manifest; returns what was done."""
    layout.sweep()
    layout.clear_parts()
    journal.clear(layout.journal)
    with running_ray(config.pools):
        from actors.commit import commit_blocks
        from actors.rewriting import RewriterActor
        from actors.scoring import ScoringActor
        from actors.source import ShardDatasource
        from ray_jobs.pipeline import Line, configure_data, shared

        configure_data()
        pools = config.pools
        models = model_fingerprints(config.rewriter, config.scoring)
        own = {role: found for role, found in models.items() if role.startswith("rewriter")}
        names, work, stats = list(shards), Work(), []
        with (
            shared(layout.root) as probe,
            console.progress(len(shards), lambda: journal.rows_done(layout.journal, "rewriting")) as advance,
        ):
            line = Line(pools=pools, layout=layout, probe=probe)
            for start in range(0, len(names), SHARDS_A_RUN):
                some = {name: shards[name] for name in names[start : start + SHARDS_A_RUN]}
                read = line.read(ShardDatasource(some, identity), len(some))
                rewriter, scorer = rewriting_actor or RewriterActor, scoring_actor or ScoringActor
                rewritten = line.actors(read, rewriter, config.rewriter, pools.rewriting, by_name(own))
                others = by_name({role: models[role] for role in models.keys() - own.keys()})
                scored = line.actors(rewritten, scorer, config.scoring, pools.scoring, others)
                whole = replace(layout, root=layout.root.resolve())
                committed = line.tasks(scored, commit_blocks, layout=whole, config_hash=identity)
                for shard in line.results(committed):
                    advance(1, shard["rows_in"])
                    work.rows += shard["rows_in"]
                    for name in ("rewriting", "scoring"):
                        work.seconds[name] += shard[f"{name}_seconds"]
                stats.append(committed.stats())
        write_atomically(layout.ray_stats, "\n\n".join(stats))
    missing = list(unfinished(layout, shards))
    assert not missing, f"shards were neither committed nor reported: {console.names_of(missing)}"
    layout.clear_parts()
    return work


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    return console.run(
        "build", "Rewrite, score and select raw shards into a polite dataset.", BuildConfig, build, arguments
    )


if __name__ == "__main__":
    sys.exit(main())
