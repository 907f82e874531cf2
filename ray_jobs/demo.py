"""Build a small dataset from generated scenes on this machine, without a network.

    polite-flamingo demo --out out/demo

Generates Shapes scenes and stores their annotations in the formats of real datasets (OUT/raw), ingests them through the
adapters that read the real ones (OUT/ingested), and builds with profiles/tiny.yaml. Nothing after the first step knows
that the scenes are synthetic. After an interruption the same command resumes; once finished, it does nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.storage.location import write_atomically
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build

PROFILE = Path(__file__).parents[1] / "profiles" / "tiny.yaml"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Size of the demo.

    Attributes:
        out: the folder for everything: raw, ingested, and the build's output.
        samples: approximate number for each dataset.
        samples_per_shard: size of a shard, and the most work repeated after an interruption.
        seed: of the scenes.
        fresh: generate and build everything again.
    """

    out: str = "out/demo"
    samples: int = 180
    samples_per_shard: int = 30
    seed: int = 0
    fresh: bool = False


def demo(config: DemoConfig) -> None:
    """Generate, ingest and build."""
    started = time.monotonic()
    out = Path(config.out)
    if config.fresh:
        for folder in ("raw", "ingested"):
            shutil.rmtree(out / folder, ignore_errors=True)
    prepare(config)
    arguments = ["--profile", str(PROFILE), "--input", str(out / "ingested"), "--out", str(out)]
    build(console.parse("demo", "", BuildConfig, [*arguments, *(["--fresh"] if config.fresh else [])]))
    print(f"done in {time.monotonic() - started:.0f} s")


def prepare(config: DemoConfig) -> None:
    """Write OUT/raw and OUT/ingested, unless they are already there, complete and of this size and seed.

    Raises:
        ValueError: they are there with another size or seed.
    """
    out = Path(config.out)
    complete = out / "raw" / "complete.json"  # not beside the shards, where a build would report it as ignored
    wanted = {"samples": config.samples, "samples_per_shard": config.samples_per_shard, "seed": config.seed}
    if complete.exists() and (out / "ingested").is_dir():
        if json.loads(complete.read_text()) != wanted:
            raise ValueError(f"{out} holds a demo of another size or seed; give another --out, or --fresh")
        return
    from polite_flamingo.testbed.shapes.write import write_raw

    print(f"generating scenes into {out / 'raw'} …")
    sources = write_raw(out / "raw", samples=config.samples, seed=config.seed)
    reasons: Counter[str] = Counter()
    rows = 0
    for source, options in sources.items():
        result = ingest(
            IngestConfig(
                source=source,
                options=options,
                out=out / "ingested",
                samples_per_shard=config.samples_per_shard,
                fresh=True,
            )
        )
        rows += result.rows_in
        reasons.update(result.reasons)
    quarantined = "".join(f", {count} {reason}" for reason, count in sorted(reasons.items()))
    print(f"ingested {rows:,} annotations of {len(sources)} datasets into {out / 'ingested'}{quarantined}")
    write_atomically(complete, json.dumps(wanted))


main = partial(console.run, "demo", __doc__, DemoConfig, demo)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
