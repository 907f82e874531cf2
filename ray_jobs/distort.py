"""Make pairs for training the rewriter (distorted text -> original) from good responses.

    polite-flamingo distort --profile profiles/tiny.yaml --input shards --out out/pairs

The input is shards of good responses (LLaVA, UltraChat, ShareGPT, as ingest writes them). Each becomes a pair
by one of three kinds of distortion, chosen by its key (`polite_flamingo/distortion/pairs.py`): reworded by a terse
robot, randomly augmented, or replaced by COCO's captions and boxes. Shards of pairs are in OUT/pairs; they look like
rewritten ones, so train reads both alike. OUT/preview.html shows some side by side.

The shard is the unit of commit and of resume, as in build. Rows in = pairs + quarantined; a dialogue
counts as many rows as exchanges are taken from it. A server is tested with one request before anything else. The exit
status is 1 if no row became a pair.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from polite_flamingo.config import to_yaml
from polite_flamingo.distortion import llm_prompts
from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.loading import load_speaker
from polite_flamingo.distortion.pairs import caption_index, single_turns
from polite_flamingo.distortion.retrieval import index_name
from polite_flamingo.distortion.speakers import ASKED_PLAINLY
from polite_flamingo.distortion.summary import count, pick, total
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.report.distortion import write_distortion_page
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.input_index import THREADS
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine, read_scored
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.run_info import read_run, read_stats, write_stats
from ray_jobs import console
from ray_jobs.cluster import running_ray
from ray_jobs.fingerprint import by_name, fingerprints, short_hash
from ray_jobs.resumable_job import ShardJob, input_shards

VERSION = 2
"""Increment when the code makes other pairs from the same samples and settings."""
SHOWN = 8
"""Number of pairs of each kind on the page."""


@dataclass(frozen=True, kw_only=True)
class DistortConfig:
    """Everything a distortion depends on.

    Attributes:
        input: a folder of .tar shards of good responses, one .tar, a pattern, or a list (.txt); also an address.
        out: the output folder; on several machines, one that all of them see.
        distortion: the kinds of distortion and their shares, and who rewords.
        pools: number of actors, and when a job with failing rows ends.
        again: remake shards with rows quarantined as distortion_failed, for example after a server's outage.
        fresh: delete what an earlier run left in `out` and start over.
    """

    input: str
    out: str
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    again: bool = False
    fresh: bool = False


def distort(config: DistortConfig, actor: type | None = None) -> None:
    """Run the job, or what is left of it.

    Args:
        config: of the job.
        actor: replaces `DistortionActor`, for tests that need a worker to fail in a certain way.

    Raises:
        ValueError: the input, the output folder or the pools are wrong; the message says what to do.
        EndpointDown: the speaker's server does not answer as it should.
        JobFailed: the speaker failed.
        AllFailed: no row became a pair.
    """
    layout = OutputLayout(root=config.out, samples="pairs")
    shards = input_shards(config.input, layout)
    models = speaker_of(config.distortion)
    job = ShardJob(
        layout=layout,
        identity=config_hash(config.distortion, models),
        models=models,
        config=to_yaml(replace(config, fresh=False, again=False)),
    )
    with job.locked(fresh=config.fresh):
        if config.again:
            forget_failed(layout)
        todo = job.left_to_do(shards)
        if todo:
            try_out(config.distortion)
            make_pairs(job, todo, config, actor)
        if todo or not layout.stats.exists():
            summarise(layout)
        print_summary(layout)
        fail_without_pairs(layout)


def try_out(config: DistortionConfig) -> None:
    """Send one request to a speaker's server, so that its problems show before Ray starts."""
    if config.speaker == "rules" and config.shares.llm:
        load_speaker(config)  # its note taker may not exist
    if config.speaker != "endpoint" or not config.shares.llm:
        return
    from polite_flamingo.distortion.endpoint_speaker import EndpointSpeaker

    wording = EndpointSpeaker(config).try_out()
    print(f"{config.endpoint.model} at {config.endpoint.url} answers ({wording})")
    if wording == ASKED_PLAINLY:
        print("it cannot continue a started turn, so it writes a careless annotator's note, not a robot's words")


def speaker_of(config: DistortionConfig) -> dict[str, dict[str, str]]:
    """Return the speaker's name and, if it is a local model, the fingerprint of its files."""
    if config.speaker == "local":
        return fingerprints({"speaker": config.local.model})
    return {"speaker": {"name": config.endpoint.model if config.speaker == "endpoint" else "rules", "fingerprint": ""}}


def config_hash(config: DistortionConfig, models: Mapping[str, Mapping[str, str]]) -> str:
    """Return a short hash of what decides the pairs: not devices, batches, addresses, time-outs or retries."""
    settings: dict[str, Any] = dataclasses.asdict(config)
    for section in ("endpoint", "local", "retrieval"):
        del settings[section]
    if not config.note_taker:
        del settings["note_taker"]  # folders of earlier versions stay valid
    decides = {
        "version": VERSION,
        "settings": settings,
        "speaker": {**models["speaker"], "name": ""} if config.speaker == "local" else models["speaker"],
        "api": config.endpoint.api if config.speaker == "endpoint" else "",
        "dtype": config.local.dtype if config.speaker == "local" else "",
        "words": [llm_prompts.PRAISE, llm_prompts.prefill(), llm_prompts.ASKED, COMMANDS],
        "captions": index_name(config.retrieval.annotations) if config.retrieval.annotations else "",
        "described": config.retrieval.datasets,
    }
    return short_hash(decides)


def forget_failed(layout: OutputLayout) -> None:
    """Delete the manifests of shards in which rows failed because of the speaker, so that they are made again."""
    names = layout.finished()
    for name, rows in zip(names, in_order(partial(read_quarantine, layout), names, THREADS), strict=True):
        if any(row.reason == "distortion_failed" for row in rows):
            layout.manifest(name).delete()


def make_pairs(job: ShardJob, shards: Mapping[str, Location], config: DistortConfig, actor: type | None = None) -> None:
    """Distort and commit shards on Ray, each with its manifest; add this attempt to run.json."""
    index = caption_index(config.distortion, job.layout.absolute().captions)
    needs = config.pools.needs(config.pools.distorting, shards=len(shards))
    with job.attempt() as attempt, running_ray(needs):
        from actors.commit import commit_blocks
        from actors.distortion import DistorterConfig, DistortionActor
        from ray_jobs.pipeline import ActorPool, run_shards

        distorter = DistorterConfig(distortion=config.distortion, captions=str(index.where) if index else "")
        models = by_name(job.models) if config.distortion.speaker == "local" else {}
        pool = ActorPool(actor or DistortionActor, distorter, config.pools.distorting, models)
        commit = partial(commit_blocks, layout=job.layout.absolute(), config_hash=job.identity, describe=count)
        for shard in run_shards(
            shards, [pool], commit, layout=job.layout, pools=config.pools, config_hash=job.identity,
            prepare=partial(single_turns, turns=config.distortion.turns), waiting="starting the workers",
        ):  # fmt: skip
            attempt.add(shard)


def summarise(layout: OutputLayout) -> None:
    """Sum the manifests of all finished shards; write OUT/preview.html and, last, OUT/stats.json."""
    names = layout.finished()
    manifests = list(in_order(lambda name: read_manifest(layout.manifest(name)), names, THREADS))
    stats: dict[str, Any] = {
        "shards": len(manifests),
        "rows_in": sum(manifest.rows_in for manifest in manifests),
        "pairs": sum(manifest.scored for manifest in manifests),
        "quarantined_rows": sum(manifest.quarantined for manifest in manifests),
        **total(manifest.stats for manifest in manifests),
    }
    assert stats["rows_in"] == stats["pairs"] + stats["quarantined_rows"]
    assert stats["pairs"] == sum(stats.get("kinds", {}).values()), "each pair is of one kind"
    run = read_run(layout)
    assert run is not None, "written before any manifest"
    shown = pick(names, lambda name: read_scored(layout, name), SHOWN)
    write_distortion_page(layout.preview, stats=stats, pairs=shown, run=run)
    write_stats(layout, stats)


def print_summary(layout: OutputLayout) -> None:
    """Print the counts of OUT/stats.json as a table."""
    stats = read_stats(layout)
    rows = [("rows in", f"{stats['rows_in']:,} in {stats['shards']:,} shards"), ("pairs", f"{stats['pairs']:,}")]
    for kind, number in stats.get("kinds", {}).items():
        spoken = f", by {', '.join(stats.get('speakers', {}))}" if kind == "llm" else ""
        rows.append((f"  {kind}", f"{number:,}   {_KINDS[kind]}{spoken}"))
    for gone, number in stats.get("instead_of", {}).items():
        kind, _, reason = gone.partition(": ")
        rows.append(("  changed kind", f"{number:,}   {kind} was not possible: {reason.replace('_', ' ')}"))
    if followed := stats.get("followed", {}):
        rows.append(("extra commands", ", ".join(f"{number:,} {_FOLLOWED[one]}" for one, number in followed.items())))
    if rejected := stats.get("not_taken", {}):
        rows.append(("rejected draws", _counts(rejected)))
    rows.append(("quarantined", f"{stats['quarantined_rows']:,}"))
    rows += [(f"  {reason}", f"{number:,}") for reason, number in stats.get("quarantined", {}).items()]
    print(console.table([*rows, ("page", str(layout.preview))], f"\n{layout.root}"))


def fail_without_pairs(layout: OutputLayout) -> None:
    """Raise `AllFailed` if rows came in and none became a pair."""
    stats = read_stats(layout)
    if stats["pairs"] or not stats["rows_in"]:
        return
    names = layout.finished()
    rows = (row for name in names for row in read_quarantine(layout, name))
    reason = max(stats["quarantined"], key=lambda one: stats["quarantined"][one])
    detail = next((row.detail for row in rows if row.reason == reason), "")
    raise console.AllFailed(
        f"not one of {stats['rows_in']:,} rows became a pair: {_counts(stats['quarantined'])}. For example {detail}"
    )


_FOLLOWED = {"yes": "followed", "no": "not followed", "not checkable": "that no rule can check"}
_KINDS = {
    "llm": "reworded tersely",
    "text": "randomly augmented",
    "captions_and_boxes": "replaced by the image's captions and boxes",
}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


main = partial(console.run, "distort", __doc__, DistortConfig, distort)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
