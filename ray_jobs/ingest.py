"""`python -m ray_jobs.ingest`: raw datasets on disk -> shards that `build_pf1m` reads.

The annotation files are streamed by one process a source; the shards are built by Ray Data tasks, which read the images
(`polite_flamingo/ingest/` says how, and why it can be interrupted). A source of a few shards is done in this process:
starting Ray would take longer.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from polite_flamingo.faults.hints import commonest, hint
from polite_flamingo.ingest.ingest import IngestConfig, Ingested, Tick, ingest_all, preview_rows
from polite_flamingo.ingest.mixture import load_mixture
from polite_flamingo.sources import SOURCES, SourceError, SourceOptions
from polite_flamingo.sources.catalogue import as_text, named
from polite_flamingo.storage.ledger import read_quarantine
from polite_flamingo.storage.user_paths import expanded, is_pattern, local_path
from ray_jobs.submitted import refuse_relative

RAY_PAYS = 8
"""Jobs from which on a private Ray is started: about as long as its start takes."""

EXAMPLE = """examples:
  python -m ray_jobs.ingest --list                 all sources;   --list vqa_v2   one of them, with an example
  python -m ray_jobs.ingest --source coco_captions --split val --images data/coco/images --out shards \\
      --annotations data/coco/captions_val2014.json data/coco/instances_val2014.json
  python -m ray_jobs.ingest --source table --annotations mine.csv --images photos --out shards \\
      --columns image=file instruction=question response=answer --preview
  python -m ray_jobs.ingest --mixture profiles/pf1m-mixture.yaml --root data --skip_absent --out shards

Every annotation record becomes a sample in OUT/SOURCE-00000.tar … or a line of OUT/quarantine/SOURCE.jsonl that says
what is wrong with it and where it lies. Interrupted, the same command goes on where it stopped. The exit status is 0 if
there are samples, 1 if every row was quarantined, and 2 if an annotation file as a whole is unusable."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, ingest, and print the counts."""
    made = parser()
    args = made.parse_args(arguments)
    try:
        if args.list is not None:
            width = shutil.get_terminal_size((100, 24)).columns
            print(as_text(named(args.list or SOURCES), details=bool(args.list), width=width))
            return 0
        _make_local(args)
        refuse_relative(
            {
                "--annotations": args.annotations or (),
                "--images": [args.images] if args.images else (),
                "--root": [args.root] if args.mixture else (),
                "--out": [args.out or "."],
            }
        )
        if args.mixture:
            return _mixture(args)
        wanted = ["source", "annotations"] + ["images"] * _needs_images(args) + ["out"] * (args.preview is None)
        if missing := [f"--{name}" for name in wanted if not getattr(args, name)]:
            made.error(f"{', '.join(missing)} must be given (or --list, or --mixture)")
        config = _config(args)
        if args.preview is not None:
            return _preview(args, config)
        return _ingest([config], lambda sizes: [args.count], local=args.local)
    except KeyboardInterrupt:
        print("\ningest: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except (SourceError, ValueError, OSError) as error:
        if os.environ.get("POLITE_FLAMINGO_TRACEBACK"):
            raise
        print(f"ingest: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="polite-flamingo ingest",
        description="Turn raw datasets (annotation files and images on disk) into shards of samples.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--list", nargs="*", metavar="NAME", help="list the sources, the files each wants, and where they come from"
    )
    made.add_argument(
        "--source", metavar="NAME", help="a name of --list; own data: table, llava, sharegpt, pf1m, webdataset"
    )
    made.add_argument("--annotations", nargs="+", metavar="FILE", help="annotation files or folders, any order")
    made.add_argument("--images", metavar="DIR", help="the folder that image names are relative to")
    made.add_argument("--out", metavar="DIR", help="where the shards go; several sources may share it")
    made.add_argument(
        "--split",
        default="",
        help="goes into the keys; of files that hold several splits, only this one is read (default: train, and all)",
    )
    made.add_argument(
        "--columns",
        nargs="+",
        default=[],
        type=_name_and_value,
        metavar="FIELD=COLUMN",
        help="of a table: response, instruction, image, id, task, rationale, split, meta.ANY = the column's name",
    )
    made.add_argument(
        "--extra",
        nargs="+",
        default=[],
        type=_name_and_value,
        metavar="NAME=VALUE",
        help="what only one source knows, see --list NAME",
    )
    made.add_argument(
        "--download",
        nargs="+",
        default=[],
        metavar="HOST",
        help="fetch images that are not on disk from these hosts (*.example.org: all below one) and no others",
    )
    made.add_argument(
        "--preview",
        nargs="?",
        type=int,
        const=20,
        metavar="N",
        help="write no shard but a page that shows N samples as they would be ingested (default: %(const)s)",
    )
    made.add_argument(
        "--name", default="", help="of the shards, where a source is ingested twice (default: the source)"
    )
    made.add_argument("--count", type=int, metavar="N", help="draw so many records instead of all")
    made.add_argument("--seed", type=int, help="of the draw (default: 0, or the mixture's)")
    made.add_argument("--samples_per_shard", type=int, default=1000, metavar="N", help="default: %(default)s")
    made.add_argument("--threads", type=int, default=0, metavar="N", help="images read at once (0: decides)")
    made.add_argument("--fresh", action="store_true", help="replace the shards of the same name in --out")
    made.add_argument("--local", action="store_true", help="work in this process only, without Ray")
    mixture = made.add_argument_group("several sources at once")
    mixture.add_argument("--mixture", metavar="FILE", help="YAML that names them, see profiles/")
    mixture.add_argument("--root", default=Path(), metavar="DIR", help="of its paths")
    mixture.add_argument("--sampling", help="all, ratio, counts, sqrt or paper, instead of the file's")
    mixture.add_argument("--total", type=int, metavar="N", help="records in all, for sqrt")
    mixture.add_argument("--skip_absent", action="store_true", help="leave out sources whose files are not there")
    return made


class OnRay:
    """Spreads jobs as Ray Data tasks. Ray is joined or started with the first that are worth it, left at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def __call__(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Results as they come."""
        if len(jobs) < RAY_PAYS and not os.environ.get("RAY_ADDRESS"):
            yield from map(function, jobs)
            return
        self._start()
        import ray

        from ray_jobs.pipeline import configure_data

        configure_data()
        rows = [{"job": pickle.dumps((function, job))} for job in jobs]
        # several jobs a task: a task of its own for each quarter of a second of work would cost as much again
        tasks = min(len(rows), max(4 * int(ray.cluster_resources().get("CPU", 1)), len(rows) // 8))
        results = ray.data.from_items(rows, override_num_blocks=tasks).map(run_job, num_cpus=1)
        for row in results.iter_rows():
            yield row["result"]

    def _start(self) -> None:
        import ray

        from polite_flamingo.pools import Needs
        from ray_jobs.cluster import running_ray

        if not ray.is_initialized():
            self._stack.enter_context(running_ray(Needs(cpus=1)))


def run_job(row: dict[str, Any]) -> dict[str, Any]:
    """One job in a worker. A job that is killed is started again by Ray and does the same again."""
    function, job = pickle.loads(row["job"])
    return {"result": function(job)}


def summary(results: Sequence[Ingested]) -> Table:
    """Rows in = written + quarantined + left out, by source and reason."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("shards of", no_wrap=True)
    for name in ("rows in", "written", "quarantined", "left out", "shards"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            result.name, f"{result.rows_in:,}", f"{result.written:,}", f"{result.quarantined:,}",
            f"{result.left_out:,}", f"{len(result.shards):,}",
        )  # fmt: skip
        for reason, count in result.reasons.items():
            table.add_row(f"  {reason}", "", "", f"{count:,}", style="dim")
    return table


def print_notes(name: str, notes: Mapping[str, int]) -> None:
    """What a source guessed, passed over or ignored, a line each with how often."""
    for text, times in notes.items():
        print(f"{name}: {text}" + (f" ({times:,} times)" if times > 1 else ""))


def _ingest(
    configs: Sequence[IngestConfig], choose: Callable[[Sequence[int]], Sequence[int | None]], *, local: bool
) -> int:
    console = Console()
    with _progress(console) as tick, OnRay() as ray:
        results = ingest_all(configs, choose, spread=map if local else ray, tick=tick, say=print_notes)
    console.print(summary(results))
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
        print(f"{written:,} samples in {shards:,} shard{'s' * (shards > 1)}, {seconds:.1f} s: {configs[0].out}")
    return 0 if written else 1


def _example(result: Ingested) -> str:
    """The first quarantined row of the commonest reason: its place, and what is wrong with it."""
    assert result.quarantine is not None
    row = next(row for row in read_quarantine(result.quarantine) if row.reason == commonest(result.reasons))
    return f"{row.payload}: {row.detail}"


def _mixture(args: argparse.Namespace) -> int:
    mixture = load_mixture(args.mixture, sampling=args.sampling, total=args.total, seed=args.seed)
    if not args.out and args.preview is None:
        raise SourceError("--out must be given")
    settings = {name: getattr(args, name) for name in ("samples_per_shard", "threads", "fresh")}
    made = mixture.configs(args.root, args.out or Path(), download_from=tuple(args.download), **settings)
    absent = {config.shard_name: path for config in made for path in _paths(config) if not path.exists()}
    if absent and not args.skip_absent:
        name, path = next(iter(absent.items()))
        more = f" (and files of {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise SourceError(
            f"{name}: {path} is not there{more}; pass --root, or --skip_absent to do without such sources"
        )
    if absent:
        print(f"left out, because files are not there: {', '.join(absent)}", file=sys.stderr)
        mixture = mixture.without(absent)
        made = [config for config in made if config.shard_name not in absent]
    if args.preview is not None:
        return min(_preview(args, config) for config in made)
    return _ingest(made, mixture.counts, local=args.local)


def _preview(args: argparse.Namespace, config: IngestConfig) -> int:
    from polite_flamingo.report.preview import write_preview

    source = SOURCES[config.source]
    path = (args.out or Path()) / f"preview-{config.shard_name}.html"
    found = preview_rows(config, args.preview)
    print_notes(config.shard_name, found.notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "ray_jobs.ingest", *sys.argv[1:]])
    write_preview(
        path,
        source=source,
        options=config.options,
        rows=found.rows,
        looked_at=found.looked_at,
        reasons=found.reasons,
        notes=found.notes,
        command=command,
        name=config.shard_name,
    )
    bad = sum(found.reasons.values())
    samples = len(found.rows) - bad
    print(f"{config.shard_name}: {samples} samples and {bad} quarantined of {found.looked_at:,} records: {path}")
    return 0 if samples else 1


def _config(args: argparse.Namespace) -> IngestConfig:
    named([args.source])
    options = SourceOptions(
        annotations=tuple(args.annotations),
        images=args.images,
        split=args.split,
        columns=dict(args.columns),
        extra=dict(args.extra),
        download_from=tuple(args.download),
    )
    return IngestConfig(
        source=args.source,
        name=args.name,
        options=options,
        out=args.out or Path(),
        samples_per_shard=args.samples_per_shard,
        seed=args.seed or 0,
        threads=args.threads,
        fresh=args.fresh,
    )


def _make_local(args: argparse.Namespace) -> None:
    """Paths as `local_path` gives them, patterns among the annotations as what they stand for. Raises ValueError."""
    for name in ("images", "out", "root", "mixture"):
        if getattr(args, name) is not None:
            setattr(args, name, Path(local_path(getattr(args, name), f"--{name}")))
    if args.annotations:
        given = [local_path(path, "--annotations") for path in args.annotations]
        args.annotations = [Path(one) for path in given for one in (expanded(path) if is_pattern(path) else [path])]


def _paths(config: IngestConfig) -> Iterable[Path]:
    yield from config.options.annotations
    if config.options.images is not None:
        yield config.options.images


def _needs_images(args: argparse.Namespace) -> bool:
    known = SOURCES.get(args.source)
    return args.source is None or (known is not None and known.images == "needed" and not args.download)


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


@contextmanager
def _progress(console: Console) -> Iterator[Tick]:
    """A bar for each thing that is being done; where nobody watches, a line now and then."""
    if not console.is_terminal:
        yield partial(_line, {})
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, Any] = {}

        def tick(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total or None)
            progress.update(bars[step], completed=done)

        yield tick


def _line(last: dict[str, float], step: str, done: int, total: int) -> None:
    if time.monotonic() - last.setdefault(step, time.monotonic()) >= 10 or (done == total and total):
        last[step] = time.monotonic()
        print(f"{step}: {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
