"""Contestant (d) of `benchmarks/pipeline/rewriting.py`: the job on Ray, with a scoring actor that does nothing.

The measured time runs from the first row that reaches a rewriter to the last manifest. By then all actors are up and
warm (they wait for each other), and so are the worker processes that read and commit, thanks to an earlier job of a few
rows; in a job of hours none of this matters. The tail counts in full, including the seconds in which one rewriter has
run out of shards and another has not.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.base import ActorSettings
from actors.rewriting import RewriterActor
from actors.scoring import ScoringActor
from benchmarks.processes import CpuByKind
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.images import decoding
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import OutputLayout, read_scored
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.usage import Usage
from ray_jobs.build_pf1m import BuildConfig, job_of, rewrite_and_score
from ray_jobs.cluster import running_ray

PATIENCE = 300
"""Seconds to wait for a missing actor before the others fail."""


def wait_for_all(out: str, count: int) -> None:
    """Return when this many actors have arrived."""
    Path(out, f"ready-{os.getpid()}").touch()
    deadline = time.monotonic() + PATIENCE
    while len(list(Path(out).glob("ready-*"))) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {count} actors came up")
        time.sleep(0.01)


def first_sample() -> Sample:
    """Return a question about a black picture."""
    buffer = io.BytesIO()
    decoding.black().save(buffer, "PNG")
    return Sample(
        key="warm/up/0",
        dataset="warm",
        task="vqa",
        turns=(Turn(instruction="<image>What colour is it?", response="Answer: black"),),
        images=(Image(extension="png", data=buffer.getvalue()),),
    )


class TimedActor(RewriterActor):
    """Starts with the others, warm; notes when its first block arrives."""

    def __init__(self, config: RewriterConfig, settings: ActorSettings):
        super().__init__(config, settings)
        self._mark: Path | None = Path(settings.out, f"first-{os.getpid()}")
        self.model.texts([first_sample()])  # first calls of torch and of compiled kernels take seconds
        wait_for_all(settings.out, settings.actors + 1)

    def __call__(self, table: Any) -> Any:
        """Process a block like the real actor."""
        if self._mark is not None:
            self._mark.touch()
            self._mark = None
        return super().__call__(table)


class NoScores:
    """A scorer that scores nothing."""

    def score(self, samples: Sequence[Sample], usage: Usage) -> list[dict[str, Any]]:
        """Return no scores."""
        return [{} for _ in samples]


class IdleScoring(ScoringActor):
    """The scoring actor without its models."""

    def __init__(self, config: ScoringConfig, settings: ActorSettings):
        super().__init__(config, settings)
        Path(settings.out, f"ready-{os.getpid()}").touch()

    def load(self, config: Any) -> NoScores:
        """Load nothing."""
        return NoScores()


def on_ray(
    config: BuildConfig, root: Path, samples: list[Sample], options: dict[str, Any]
) -> tuple[float, list[str], int]:
    """Rewrite the samples with one actor per core.

    Args:
        config: a build's config; its output folder is replaced.
        root: folder for shards and output.
        samples: samples to rewrite, in shards of `options["rows_per_shard"]`.
        options: the run's options.

    Returns:
        Seconds, texts, and 0 for the unknown number of tokens.
    """
    cores = os.cpu_count() or 1
    rewriting = replace(config.pools.rewriting, min_actors=cores, max_actors=cores, cpus=1 / cores)
    config = replace(config, pools=replace(config.pools, rewriting=rewriting))
    with running_ray(config.pools.needs()):
        build(replace(config, out=str(root / "warm")), cut(root / "few", samples[: 4 * cores], 2))
        shards = cut(root / "all", samples, options["rows_per_shard"])
        seconds, layout = build(replace(config, out=str(root / "build")), shards)
    written = {sample.key: sample.rewritten or "" for name in shards for sample in read_scored(layout, name)}
    return seconds, [written[sample.key] for sample in samples], 0


def cut(folder: Path, samples: Sequence[Sample], rows: int) -> dict[str, Location]:
    """Write shards of `rows` rows."""
    shutil.rmtree(folder, ignore_errors=True)
    for start in range(0, len(samples), rows):
        write_shard(folder / f"s{start:06d}.tar", samples[start : start + rows])
    return shard_names(str(folder))


def build(config: BuildConfig, shards: dict[str, Location]) -> tuple[float, OutputLayout]:
    """Process the shards from scratch; return the seconds and the output. Prints the CPU time by kind of process."""
    shutil.rmtree(config.out, ignore_errors=True)
    layout = OutputLayout(root=Path(config.out))
    Path(config.out).mkdir()
    cpu = CpuByKind(begun=lambda: any(Path(config.out).glob("first-*")))
    rewrite_and_score(job_of(config), shards, config, None, TimedActor, IdleScoring)
    spent = cpu.stop()
    first = min(path.stat().st_mtime for path in Path(config.out).glob("first-*"))
    last = max(Path(str(layout.manifest(name))).stat().st_mtime for name in shards)
    shares = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in spent.items())
    print(f"{len(shards)} shards, {last - first:.1f} s; seconds of CPU: {shares}", file=sys.stderr)
    return last - first, layout
