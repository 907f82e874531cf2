"""`python -m ray_jobs.ingest`: a raw dataset on disk -> shards that `build_pf1m` reads.

It is plain Python for now: one process a source, no Ray (the work is copying image bytes). The output folder may be
shared by several sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from polite_flamingo.ingest import IngestConfig, Ingested, ingest
from polite_flamingo.sources import SOURCES, Row, SourceError, SourceOptions

EXAMPLE = """example:
  python -m ray_jobs.ingest --source coco_captions --split val --images data/coco/images --out shards \\
      --annotations data/coco/captions_val2014.json data/coco/instances_val2014.json

Every annotation record becomes a sample in OUT/SOURCE-00000.tar … or a line of OUT/quarantine/SOURCE.jsonl that says
what is wrong with it and where it lies. The exit status is 0 if there are samples, 1 if every row was quarantined,
and 2 if an annotation file as a whole is unusable."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, ingest, and print the counts."""
    args = parser().parse_args(arguments)
    console = Console()
    if args.list:
        print(list_sources())
        return 0
    missing = [f"--{name}" for name in ("source", "annotations", "images", "out") if not getattr(args, name)]
    if missing:
        parser().error(f"{', '.join(missing)} must be given (or --list)")
    try:
        config = IngestConfig(
            source=args.source,
            options=SourceOptions(
                annotations=tuple(args.annotations), images=args.images, split=args.split, extra=dict(args.extra)
            ),
            out=args.out,
            samples_per_shard=args.samples_per_shard,
            fresh=args.fresh,
        )
        with _progress(console) as progress:
            result = ingest(config, watch=lambda rows: _watched(rows, progress, config.source))
    except (SourceError, ValueError, OSError) as error:
        print(f"ingest: {error}", file=sys.stderr)
        return 2
    console.print(summary(config.source, result))
    if result.written:
        print(f"shards in {config.out}: {len(result.shards)}")
    else:
        print("nothing was written: does --images name the right folder?")
    if result.quarantine:
        print(f"reasons and places: {result.quarantine}")
    return 0 if result.written else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m ray_jobs.ingest",
        description="Turn a raw dataset (annotation files and images on disk) into shards of samples.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--list", action="store_true", help="list the datasets it can read, and the files each needs")
    made.add_argument("--source", metavar="NAME", help="one of: " + ", ".join(SOURCES))
    made.add_argument(
        "--annotations", nargs="+", type=Path, metavar="FILE", help="annotation files or folders, any order"
    )
    made.add_argument("--images", type=Path, metavar="DIR", help="the folder that image names are relative to")
    made.add_argument("--out", type=Path, metavar="DIR", help="where the shards go; several sources may share it")
    made.add_argument(
        "--split",
        default="",
        help="goes into the keys; of files that hold several splits, only this one is read (default: train, and all)",
    )
    made.add_argument("--samples_per_shard", type=int, default=1000, metavar="N", help="default: %(default)s")
    made.add_argument(
        "--extra",
        nargs="+",
        default=[],
        type=_name_and_value,
        metavar="NAME=VALUE",
        help="what only one source needs: "
        + "; ".join(f"{s.name}: {name} = {what}" for s in SOURCES.values() for name, what in s.extra.items()),
    )
    made.add_argument("--fresh", action="store_true", help="replace the shards that this source left in --out")
    return made


def list_sources() -> str:
    """What can be read, one paragraph a source; plain text, so that it can be searched."""
    return "\n".join(
        f"{source.name}\n    {source.category}; licence of the annotations: {source.licence}\n    {source.files}"
        for source in SOURCES.values()
    )


def summary(source: str, result: Ingested) -> Table:
    """Rows in = written + quarantined, by reason."""
    table = Table(title=f"{source}: {result.seconds:.1f} s", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows in", f"{result.rows_in:,}", style="bold")
    table.add_row("written", f"{result.written:,}")
    table.add_row("quarantined", f"{result.quarantined:,}")
    for reason, count in result.reasons.items():
        table.add_row(f"  {reason}", f"{count:,}")
    return table


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _watched(rows: Iterator[Row], progress: Progress, name: str) -> Iterable[Row]:
    task = progress.add_task(f"{name}: rows read", total=None)
    for row in rows:
        progress.advance(task)
        yield row


if __name__ == "__main__":
    sys.exit(main())
