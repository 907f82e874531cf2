"""Build a small dataset from generated scenes on this machine, without a network.

    polite-flamingo demo --out out/demo
    polite-flamingo demo --out out/demo-s3 --store s3

Generates Shapes scenes and stores their annotations in the formats of real datasets (OUT/raw), ingests them through the
adapters that read the real ones (OUT/ingested), and builds with profiles/tiny.yaml. Nothing after the first step knows
that the scenes are synthetic. After an interruption the same command resumes; once finished, it does nothing.

With `--store s3` everything lies in a bucket: an S3 server (SeaweedFS) runs on this machine while the demo does, the
raw data are uploaded to it, and ingest and build read from it and write to it, as on a cluster. `--out` may also be an
address, such as s3://bucket/demo.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.remote_path import source_path
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build

PROFILE = Path(__file__).parents[1] / "profiles" / "tiny.yaml"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Size of the demo.

    Attributes:
        out: the folder, or the address, for everything: raw, ingested, and the build's output.
        store: s3 keeps all of it in a bucket of an S3 server on this machine, whose data and a copy of the report are
            in `out`.
        samples: approximate number for each dataset.
        samples_per_shard: size of a shard, and the most work repeated after an interruption.
        seed: of the scenes.
        fresh: generate and build everything again.
    """

    out: str = "out/demo"
    store: Literal["", "s3"] = ""
    samples: int = 180
    samples_per_shard: int = 30
    seed: int = 0
    fresh: bool = False


def demo(config: DemoConfig) -> None:
    """Generate, ingest and build."""
    started = time.monotonic()
    with where(config) as out:
        if config.fresh:
            for folder in ("raw", "ingested"):
                (out / folder).delete_tree()
        prepare(config, out)
        arguments = ["--profile", str(PROFILE), "--input", str(out / "ingested"), "--out", str(out)]
        build(console.parse("demo", "", BuildConfig, [*arguments, *(["--fresh"] if config.fresh else [])]))
        if config.store:
            show(out, Path(config.out))
    print(f"done in {time.monotonic() - started:.0f} s")


@contextmanager
def where(config: DemoConfig) -> Iterator[Location]:
    """Yield the place for everything. With a store, its server runs meanwhile."""
    if not config.store:
        yield location(config.out)
        return
    from polite_flamingo.testbed.s3_server import BUCKET, s3_server

    data = Path(config.out).absolute() / "store"
    with s3_server(data) as environment:
        os.environ |= environment  # workers inherit it
        address = f"s3://{BUCKET}/demo"
        print(f"an S3 server at {environment['AWS_ENDPOINT_URL']} keeps {address} in {data}")
        yield location(address)
    print(f"the server has ended; to start it again: python -m polite_flamingo.testbed.s3_server {data}")


def show(out: Location, folder: Path) -> None:
    """Copy what a person looks at to a folder, and count what is in the bucket."""
    for name in ("report.html", "README.md", "stats.json"):
        (folder / name).write_bytes((out / name).read_bytes())
    entries = list(out.entries())
    size = sum(entry.size for entry in entries)
    print(f"{len(entries):,} objects, {size / 1e6:.0f} MB in {out}; a copy of the report: {folder / 'report.html'}")


def prepare(config: DemoConfig, out: Location) -> None:
    """Write OUT/raw and OUT/ingested, unless they are already there, complete and of this size and seed.

    Raises:
        ValueError: they are there with another size or seed.
    """
    complete = out / "raw" / "complete.json"  # not beside the shards, where a build would report it as ignored
    wanted = {"samples": config.samples, "samples_per_shard": config.samples_per_shard, "seed": config.seed}
    if complete.exists() and (out / "ingested").names():
        if json.loads(complete.read_text()) != wanted:
            raise ValueError(f"{out} holds a demo of another size or seed; give another --out, or --fresh")
        return
    from polite_flamingo.testbed.shapes.write import write_raw

    print(f"generating scenes into {out / 'raw'} …")
    with raw_folder(out / "raw") as (folder, moved):
        sources = write_raw(folder, samples=config.samples, seed=config.seed)
    reasons: Counter[str] = Counter()
    rows = 0
    for source, options in sources.items():
        result = ingest(
            IngestConfig(
                source=source,
                options=moved(options),
                out=source_path(out / "ingested"),
                samples_per_shard=config.samples_per_shard,
                fresh=True,
            )
        )
        rows += result.rows_in
        reasons.update(result.reasons)
    quarantined = "".join(f", {count} {reason}" for reason, count in sorted(reasons.items()))
    print(f"ingested {rows:,} annotations of {len(sources)} datasets into {out / 'ingested'}{quarantined}")
    complete.put(json.dumps(wanted))


@contextmanager
def raw_folder(raw: Location) -> Iterator[tuple[Path, Callable[[SourceOptions], SourceOptions]]]:
    """Yield a folder on this machine for raw data, which are in `raw` afterwards, and what makes options for that."""
    if raw.local is not None:
        yield raw.local, lambda options: options
        return
    with tempfile.TemporaryDirectory(prefix="demo-") as made:
        folder = Path(made)

        def moved(options: SourceOptions) -> SourceOptions:
            def there(path: Path) -> Path:
                return source_path(raw / path.relative_to(folder).as_posix())

            images = None if options.images is None else there(options.images)
            return replace(options, annotations=tuple(map(there, options.annotations)), images=images)

        yield folder, moved
        files = [path for path in folder.rglob("*") if path.is_file()]
        for _ in in_order(lambda path: (raw / path.relative_to(folder).as_posix()).put(path.read_bytes()), files, 16):
            pass


main = partial(console.run, "demo", __doc__, DemoConfig, demo)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
