"""The whole of it on one machine, without a network: raw annotations in, PF-mini and its report out.

    python -m ray_jobs.demo --out out/demo

Draws Shapes scenes and stores their annotations in the formats of real datasets (OUT/raw), ingests them through the
adapters that read the real ones (OUT/ingested), and builds with profiles/tiny.yaml. Nothing after the drawing knows
that the scenes are drawn. Interrupted, it goes on where it stopped; run again, it has nothing to do.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.storage.shards import write_atomically
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build

PROFILE = Path(__file__).parents[1] / "profiles" / "tiny.yaml"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Size of the demo.

    Attributes:
        out: everything goes here: raw, ingested, and the build's output.
        samples: of each dataset, about.
        samples_per_shard: what is done again, at most, after an interruption.
        seed: of the scenes.
        fresh: draw and build everything anew.
    """

    out: str = "out/demo"
    samples: int = 180
    samples_per_shard: int = 30
    seed: int = 0
    fresh: bool = False


def demo(config: DemoConfig) -> None:
    """Draw, ingest, build."""
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
    """Write OUT/raw and OUT/ingested, unless they are there already, whole and of this size and seed.

    Raises:
        ValueError: they are there, of another size or seed.
    """
    out = Path(config.out)
    complete = out / "raw" / "complete.json"  # not beside the shards, where a build would say that it is passed over
    wanted = {"samples": config.samples, "samples_per_shard": config.samples_per_shard, "seed": config.seed}
    if complete.exists() and (out / "ingested").is_dir():
        if json.loads(complete.read_text()) != wanted:
            raise ValueError(f"{out} holds a demo of another size or seed; give another --out, or --fresh")
        return
    from polite_flamingo.testbed.shapes.write import write_raw

    print(f"drawing scenes into {out / 'raw'} …")
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
    kept_out = "".join(f", {count} {reason}" for reason, count in sorted(reasons.items()))
    print(f"ingested {rows:,} annotations of {len(sources)} datasets into {out / 'ingested'}{kept_out}")
    write_atomically(complete, json.dumps(wanted))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    return console.run("demo", "Build PF-mini from drawn scenes, on this machine.", DemoConfig, demo, arguments)


if __name__ == "__main__":
    sys.exit(main())
