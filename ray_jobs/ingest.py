"""Turn raw datasets (annotation files and images on disk) into shards of samples.

    polite-flamingo ingest --list                all sources; with names, those in detail and with an example
    polite-flamingo ingest --source coco_captions --split val --images data/coco/images --out shards \\
        --annotations data/coco/captions_val2014.json data/coco/instances_val2014.json
    polite-flamingo ingest --source table --annotations mine.csv --images photos --out shards \\
        --columns image=file instruction=question response=answer --preview
    polite-flamingo ingest --mixture profiles/pf1m-mixture.yaml --root data --skip_absent --out shards

Every annotation record becomes a sample in OUT/SOURCE-00000.tar … or a line of OUT/quarantine/SOURCE.jsonl that says
what is wrong with it and where it stands. After an interruption the same command resumes. The exit status is 0 if there
are samples, 1 if every row was quarantined, and 2 if an annotation file as a whole is unusable.

The annotation files are streamed by one process per source; the shards are built by Ray Data tasks, which read the
images (`polite_flamingo/ingest/` says how, and why it can be interrupted). Small sources are ingested in this process:
starting Ray would take longer.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from polite_flamingo.faults.hints import commonest, hint
from polite_flamingo.ingest.ingest import IngestConfig, Ingested, Tick, ingest_all
from polite_flamingo.ingest.mixture import Sampling, load_mixture
from polite_flamingo.ingest.preview import preview_rows
from polite_flamingo.sources.list_sources import as_text, sources_named
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.ledger import read_quarantine_file
from polite_flamingo.storage.location import location
from polite_flamingo.storage.patterns import matching
from polite_flamingo.storage.remote_path import source_path
from polite_flamingo.storage.user_paths import is_pattern, user_path
from ray_jobs import console
from ray_jobs.progress import EVERY, counted
from ray_jobs.submitted import refuse_relative

RAY_PAYS = 8
"""Number of jobs that take about as long as the start of a private Ray; fewer run in this process."""

Choose = Callable[[Sequence[int]], Sequence[int | None]]
"""Records in each source -> how many of them to sample, or None for all."""


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What to ingest, and where the shards go.

    Attributes:
        list: print the sources with the files that each needs, and exit; with names, print these in detail.
        source: a name of --list; own data: table, llava, sharegpt, pf1m, webdataset.
        annotations: annotation files or folders, in any order; like images and out, they may be addresses (s3://).
        images: the folder that image names are relative to.
        out: the folder of the shards; several sources may share it.
        preview: write a page with this many samples as they would be ingested (20 if no number is given), and no
            shards.
        columns: columns of a table: response, instruction, image, id, task, rationale, split or meta.ANY = its name.
        split: part of the keys, and the only split to read from files with several; if not given, keys say "train" and
            every split is read.
        extra: settings of one source, see --list NAME.
        download: fetch images that are not on disk from these hosts (*.example.org: all below one) and no others.
        name: name of the shards, for a source that is ingested twice; by default the source's name.
        count: sample this many records instead of all.
        seed: seed of the sample; by default 0, or the mixture's.
        samples_per_shard: samples in a shard.
        threads: images read at once; 0 chooses.
        fresh: replace the shards of the same name in --out.
        local: run in this process only, without Ray.
        mixture: several sources at once: the YAML file that names them, see profiles/.
        root: the folder that the mixture's paths are relative to.
        sampling: how much to take of each source; overrides the mixture.
        total: total number of records, for the sampling sqrt.
        skip_absent: leave out sources of the mixture whose files are missing.
    """

    list: tuple[str, ...] | None = field(default=None, metadata={"nargs": "*", "const": (), "metavar": "NAME"})
    source: str = field(default="", metadata={"metavar": "NAME"})
    annotations: tuple[str, ...] = field(default=(), metadata={"metavar": "FILE"})
    images: str | None = field(default=None, metadata={"metavar": "DIR"})
    out: str | None = None
    preview: int | None = field(default=None, metadata={"nargs": "?", "const": 20, "metavar": "N"})
    columns: dict[str, str] = field(default_factory=dict, metadata={"metavar": "FIELD=COLUMN"})
    split: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    download: tuple[str, ...] = field(default=(), metadata={"metavar": "HOST"})
    name: str = ""
    count: int | None = None
    seed: int | None = None
    samples_per_shard: int = 1000
    threads: int = 0
    fresh: bool = False
    local: bool = False
    mixture: str | None = field(default=None, metadata={"metavar": "FILE"})
    root: str = field(default=".", metadata={"metavar": "DIR"})
    sampling: Sampling | None = None
    total: int | None = None
    skip_absent: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if a required option is missing, or one is given that a mixture would ignore."""
        of_one = ("source", "annotations", "images", "columns", "split", "extra", "name", "count")
        if self.mixture and (
            ignored := [f"--{name}" for name in of_one if getattr(self, name) not in ("", (), {}, None)]
        ):
            raise ValueError(f"{', '.join(ignored)}: not together with --mixture, whose file says it for each source")
        if self.list is not None or (self.mixture and (self.out or self.preview is not None)):
            return
        known = SOURCES.get(self.source)
        images = not self.source or (known is not None and known.images == "needed" and not self.download)
        wanted = ["source", "annotations", *["images"] * images] * (not self.mixture) + ["out"] * (self.preview is None)
        if missing := [f"--{name}" for name in wanted if not getattr(self, name)]:
            raise ValueError(f"{', '.join(missing)} must be given (or --list, or --mixture)")


def run(options: IngestOptions) -> int:
    """Ingest and print the counts; return 1 if there is no sample. Raises `ValueError`, `OSError`."""
    if options.list is not None:
        width = shutil.get_terminal_size((100, 24)).columns
        print(as_text(sources_named(options.list or SOURCES), details=bool(options.list), width=width))
        return 0
    options = _with_user_paths(options)
    root = options.root if options.mixture else None
    paths = [("--images", options.images), ("--root", root), ("--out", options.out or ".")]
    for option, path in (*(("--annotations", path) for path in options.annotations), *paths):
        if path:
            refuse_relative(path, option)
    configs, choose = _mixture(options) if options.mixture else ([_config(options)], lambda sizes: [options.count])
    if options.preview is not None:
        return min(_preview(options, config) for config in configs)
    return _ingest(configs, choose, local=options.local)


class OnRay(ExitStack):
    """Runs jobs as Ray Data tasks. Ray is started or joined for the first batch worth it, and left at the end."""

    def __call__(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Yield the results as they come."""
        if len(jobs) < RAY_PAYS and not os.environ.get("RAY_ADDRESS"):
            yield from map(function, jobs)
            return
        import ray

        from polite_flamingo.pools import Needs
        from ray_jobs.cluster import running_ray
        from ray_jobs.pipeline import configure_data

        if not ray.is_initialized():
            self.enter_context(running_ray(Needs(cpus=1)))
        configure_data()
        rows = [{"job": pickle.dumps((function, job))} for job in jobs]
        # several jobs per task: a job takes a quarter of a second, and a task of its own would cost as much again
        tasks = min(len(rows), max(4 * int(ray.cluster_resources().get("CPU", 1)), len(rows) // 8))
        results = ray.data.from_items(rows, override_num_blocks=tasks).map(run_job, num_cpus=1)
        for row in results.iter_rows():
            yield row["result"]


def run_job(row: dict[str, Any]) -> dict[str, Any]:
    """Run one job in a worker. If it is killed, Ray runs it again, with the same result."""
    function, job = pickle.loads(row["job"])
    return {"result": function(job)}


def summary(results: Sequence[Ingested]) -> str:
    """Make the table of the counts by source and reason: rows in = written + quarantined + left out."""
    rows = [("shards of", "rows in", "written", "quarantined", "left out", "shards")]
    for one in results:
        counts = (one.rows_in, one.written, one.quarantined, one.left_out, len(one.shards))
        rows.append((one.name, *(f"{count:,}" for count in counts)))  # type: ignore[arg-type]
        rows += [(f"  {reason}", "", "", f"{count:,}", "", "") for reason, count in one.reasons.items()]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {name:<{width}}" + "".join(f"{cell:>13}" for cell in cells) for name, *cells in rows)


def print_notes(name: str, notes: Mapping[str, int]) -> None:
    """Print what a source guessed, skipped or ignored, and how often."""
    for text, times in notes.items():
        print(f"{name}: {text}" + (f" ({times:,} times)" if times > 1 else ""))


def _ingest(configs: Sequence[IngestConfig], choose: Choose, *, local: bool) -> int:
    with _progress() as tick, OnRay() as ray:
        results = ingest_all(configs, choose, spread=map if local else ray, tick=tick, say=print_notes)
    print(summary(results))
    for result in results:
        if result.quarantine:
            print(f"{result.name}: reasons and places: {result.quarantine}")
        if result.quarantined > result.rows_in / 2:
            what = "most rows were quarantined" if result.written else "nothing was written"
            print(f"{result.name}: {what}: {hint(result.reasons)}")
            print(f"{result.name}: for example {_example(result)}")
        elif not result.rows_in:
            print(f"{result.name}: nothing was written: the annotation files hold no record")
    written = sum(result.written for result in results)
    if written:
        shards = sum(len(result.shards) for result in results)
        seconds = max(result.seconds for result in results)
        print(f"{counted(written, 'sample')} in {counted(shards, 'shard')}, {seconds:.1f} s: {configs[0].out}")
    return 0 if written else 1


def _example(result: Ingested) -> str:
    """Return the first quarantined row of the commonest reason: its place, and what is wrong with it."""
    assert result.quarantine is not None
    row = next(row for row in read_quarantine_file(result.quarantine) if row.reason == commonest(result.reasons))
    return f"{row.payload}: {row.detail}"


def _mixture(options: IngestOptions) -> tuple[list[IngestConfig], Choose]:
    """Return what a mixture ingests, and how many records of each."""
    mixture = load_mixture(
        Path(options.mixture or ""), sampling=options.sampling, total=options.total, seed=options.seed
    )
    made = mixture.configs(
        source_path(options.root), location(options.out or "."), download_from=options.download,
        samples_per_shard=options.samples_per_shard, threads=options.threads, fresh=options.fresh,
    )  # fmt: skip
    absent = {
        config.shard_name: path
        for config in made
        for path in (*config.options.annotations, config.options.images)
        if path is not None and not path.exists()
    }
    if absent and not options.skip_absent:
        name, path = next(iter(absent.items()))
        more = f" (files of {len(absent) - 1} more are missing too)" if len(absent) > 1 else ""
        raise SourceError(f"{name}: {path} does not exist{more}; pass --root, or --skip_absent to skip such sources")
    if absent:
        print(f"left out, because files are missing: {', '.join(absent)}", file=sys.stderr)
        mixture = mixture.without(absent)
        made = [config for config in made if config.shard_name not in absent]
    return made, mixture.counts


def _preview(options: IngestOptions, config: IngestConfig) -> int:
    from polite_flamingo.report.preview import write_preview

    place = location(options.out or ".") / f"preview-{config.shard_name}.html"
    found = preview_rows(config, options.preview or 0)
    print_notes(config.shard_name, found.notes)
    write_preview(
        place, source=SOURCES[config.source], options=config.options, rows=found.rows, looked_at=found.looked_at,
        reasons=found.reasons, notes=found.notes, command=console.typed(), name=config.shard_name,
    )  # fmt: skip
    bad = sum(found.reasons.values())
    samples = len(found.rows) - bad
    print(f"{config.shard_name}: {samples} samples and {bad} quarantined of {found.looked_at:,} records: {place}")
    return 0 if samples else 1


def _config(given: IngestOptions) -> IngestConfig:
    sources_named([given.source])
    options = SourceOptions(
        annotations=tuple(map(source_path, given.annotations)),
        images=source_path(given.images) if given.images else None,
        split=given.split, columns=given.columns, extra=given.extra, download_from=given.download,
    )  # fmt: skip
    return IngestConfig(
        source=given.source, name=given.name, options=options, out=location(given.out or "."), seed=given.seed or 0,
        samples_per_shard=given.samples_per_shard, threads=given.threads, fresh=given.fresh,
    )  # fmt: skip


def _with_user_paths(given: IngestOptions) -> IngestOptions:
    """Resolve paths with `user_path` and expand patterns among the annotations. Raises ValueError."""
    paths = [user_path(path, "--annotations") for path in given.annotations]
    return replace(
        given,
        annotations=tuple(one for path in paths for one in (matching(path) if is_pattern(path) else [path])),
        images=user_path(given.images, "--images") if given.images else None,
        mixture=user_path(given.mixture, "--mixture") if given.mixture else None,
        root=user_path(given.root, "--root"),
    )


@contextmanager
def _progress() -> Iterator[Tick]:
    """Show a bar for each step; without a terminal, print one line per minute and one at the end."""
    if not sys.stderr.isatty():
        yield partial(_line, {})
        return
    with ExitStack() as stack:
        bars: dict[str, tqdm] = {}

        def tick(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = stack.enter_context(tqdm(desc=step, total=total or None, leave=False))
            bars[step].update(done - bars[step].n)

        yield tick


def _line(last: dict[str, float], step: str, done: int, total: int) -> None:
    if time.monotonic() - last.setdefault(step, time.monotonic()) >= EVERY or (done == total and total):
        last[step] = time.monotonic()
        print(f"{step}: {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr)


main = partial(console.run, "ingest", __doc__, IngestOptions, run)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
