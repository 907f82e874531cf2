"""A small world for tests of jobs: shards of text rows, a config without real models, and what a job left behind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.pools import PoolConfig, PoolsConfig
from polite_flamingo.rewriters.config import RewriterSection
from polite_flamingo.sample import Sample, Turn, make_key
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine, read_scored
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import write_shard
from ray_jobs.build_pf1m import BuildConfig


def text_row(shard: int, number: int, response: str = "a plain row") -> Sample:
    """Return one row; `fake_actors.FakeRewriter` does what its response says."""
    return Sample(
        key=make_key("notes", f"s{shard}", number),
        dataset="notes",
        task="text",
        turns=(Turn(instruction="Say it nicely.", response=f"{response} {number}"),),
    )


def write_world(
    folder: Path, shards: int = 3, rows: int = 10, special: dict[tuple[int, int], str] | None = None
) -> Path:
    """Write shards of plain rows, with (shard, row) -> response for special ones; return the folder."""
    for shard in range(shards):
        chosen = special or {}
        write_shard(
            folder / f"s{shard}.tar",
            [text_row(shard, row, chosen.get((shard, row), "a plain row")) for row in range(rows)],
        )
    return folder


def config(source: Path, out: Path, rows_per_call: int = 4) -> BuildConfig:
    """Return the config of a build of `source` into `out` with fake actors."""
    return BuildConfig(
        input=str(source),
        out=str(out),
        rewriter=RewriterSection(flamingo=FlamingoConfig(vision="none", language_model="none", tokenizer="none")),
        scoring=ScoringConfig(sts="none", nli="none", clip="none", reward="none"),
        pools=PoolsConfig(
            rewriting=PoolConfig(rows_per_call=rows_per_call), scoring=PoolConfig(cpus=0.5, rows_per_call=rows_per_call)
        ),
    )


def results(out: Path) -> dict[str, bytes]:
    """Return the bytes that must not depend on kills: of files by path, and of what manifests name by shard."""
    folders = ("pf1m", "parquet", "verdicts", "images")
    files = [path for folder in folders for path in sorted((out / folder).rglob("*")) if path.is_file()]
    files += [out / "pf1m.json", out / "llava.json"]
    layout = OutputLayout(root=out)
    named = {
        f"{kind} of {name}": (layout.root / file.path).read_bytes()
        for name in layout.finished()
        for kind, file in read_manifest(layout.manifest(name)).files.items()
    }
    named |= {f"usage of {name}": json.dumps(_counts(layout, name)).encode() for name in layout.finished()}
    return {**named, **{str(path.relative_to(out)): path.read_bytes() for path in files}}


def _counts(layout: OutputLayout, name: str) -> list[tuple[str, int]]:
    """What the models consumed for a shard; device time differs from run to run."""
    usage = read_manifest(layout.manifest(name)).usage
    assert usage, "every shard cost something"
    return sorted((what, count) for what, count in usage.items() if not what.endswith("milliseconds"))


def outcome(out: Path | Location) -> Counter[str]:
    """Count the rows scored, and quarantined by reason, in the shards themselves.

    Asserts that the ledger agrees and that no key occurs twice.
    """
    layout = OutputLayout(root=out)
    counts: Counter[str] = Counter()
    keys: list[str] = []
    for name in layout.finished():
        samples, quarantined = read_scored(layout, name), read_quarantine(layout, name)
        assert read_manifest(layout.manifest(name)).rows_in == len(samples) + len(quarantined)
        keys += [sample.key for sample in samples]
        counts["scored"] += len(samples)
        counts.update(row.reason for row in quarantined)
    assert len(keys) == len(set(keys)), "a key was scored twice"
    return counts


def stats(out: Path) -> dict[str, object]:
    """OUT/stats.json."""
    return dict(json.loads((out / "stats.json").read_text()))
