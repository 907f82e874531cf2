"""Write the kept samples of a build in the format of a trainer or a hub.

    polite-flamingo export --out out/demo --format sharegpt --to exports/sharegpt
    polite-flamingo export --out out/demo --format openai --pictures paths --to s3://bucket/openai

Reads the last selection shard by shard, holds a few of them, and writes files of bounded size. `export.json` is written
last: without it an export is not finished, and the same command makes it again. An export that is finished and of the
same selection is left alone; any other of ours is replaced. `polite-flamingo push` uploads it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from polite_flamingo.exports.card import contents_of, counts_of
from polite_flamingo.exports.formats import EXPORTS, Export, Format, OpenaiPathsExport
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Sample
from polite_flamingo.selection.card import card
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.hub_files import SCHEME
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import OutputLayout, undamaged
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.provenance import Annotations
from polite_flamingo.storage.run_info import read_run, read_stats
from polite_flamingo.storage.shards import read_shard
from polite_flamingo.storage.tar_export import FOLDER
from ray_jobs import console, progress

SHARDS_AHEAD = 2
"""Shards that are read, and held, while one is written."""

OURS = ("data", "images", "llava.json", "dataset_info.json", "README.md")
"""What an export may hold beside `export.json`; nothing else in its folder is touched."""

DATASET_INFO: dict[str, Any] = {
    "polite_flamingo": {
        "file_name": "data",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
}
"""The description of `sharegpt` for LLaMA-Factory."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """An export.

    Attributes:
        out: the output folder of a build.
        format: what to write.
        to: a folder of its own for the export, or an address (s3://, gs://, az://).
        pictures: of the format openai; as data URLs in the records, or as paths of files beside them.
        shard_mb: megabytes of a file, roughly; llava.json is one file.
    """

    out: str
    format: Format
    to: str = field(metadata={"metavar": "FOLDER"})
    pictures: Literal["data_urls", "paths"] = "data_urls"
    shard_mb: int = 500

    def __post_init__(self) -> None:
        if self.to.startswith(SCHEME):
            raise ValueError("to: give a folder or an address (s3://, gs://, az://), and then polite-flamingo push")
        if self.shard_mb < 1:
            raise ValueError("shard_mb: must be at least 1")
        if self.pictures == "paths" and self.format != "openai":
            raise ValueError(f"pictures: of the format openai only, not of {self.format}")


def export(config: ExportConfig) -> None:
    """Run the job.

    Raises:
        ValueError: OUT has no finished selection, a file of it is damaged, or the folder of the export is not ours.
    """
    layout, target = OutputLayout(root=config.out), location(config.to)
    if not layout.stats.exists():
        raise ValueError(f"{config.out} holds no finished selection; run polite-flamingo build or select first")
    inside, outside = str(target.absolute()).rstrip("/"), str(layout.root.absolute()).rstrip("/")
    if inside == outside or inside.startswith(f"{outside}/"):
        raise ValueError(f"--to {config.to} is in the output folder, which a selection sweeps; give another folder")
    selection = _selection(layout)
    order = {"format": config.format, "pictures": config.pictures, "shard_mb": config.shard_mb, "selection": selection}
    with exclusive(target):
        done = _begin(target, config.to)
        if {name: done.get(name) for name in order} == order and done.get("finished"):
            print(f"{done['counts']}; already in {target}")
            return
        (target / "export.json").put(json.dumps({**order, "finished": False}) + "\n")
        for name in OURS:
            (target / name).delete_tree() if "." not in name else (target / name).delete()
        kind = OpenaiPathsExport if config.pictures == "paths" else EXPORTS[config.format]
        with kind(target, config.shard_mb * 1_000_000) as made:
            _write(layout, made)
        _describe(layout, target, config.format, made)
        if _selection(layout) != selection:
            raise ValueError(f"{config.out} was selected again meanwhile; run the same command again")
        counts = counts_of(config.format, made)
        figures = {"records": made.records, "samples": made.samples, "left_out": dict(made.left_out)}
        last = {**order, "finished": True, "counts": counts, **figures}
        (target / "export.json").put(json.dumps(last, indent=1) + "\n")
        print(f"{counts}; in {target}")


def _selection(layout: OutputLayout) -> str:
    """Return what tells one selection from another."""
    return hashlib.sha256(layout.stats.read_bytes()).hexdigest()


def _begin(target: Location, given: str) -> dict[str, Any]:
    """Return what the last export into the folder noted; nothing for an empty one. Raises `ValueError` for others."""
    note = target / "export.json"
    if note.exists():
        with undamaged(note, "delete the folder and export again"):
            return dict(json.loads(note.read_text()))
    if names := [name for name in target.names("", at_most=3) if name not in (".lock", "lock.json")]:
        raise ValueError(f"{given} holds other files ({names[0]}); give a new or empty folder, or that of an export")
    return {}


def _write(layout: OutputLayout, made: Export) -> None:
    """Write all kept samples. Raises `ValueError` if there are not as many as the selection counted."""
    kept = read_stats(layout)["kept"]
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} samples, {elapsed}{postfix}"
    with progress.bar(kept, form) as bar:
        for samples in _kept(layout):
            made.add(samples)
            bar.update(len(samples))
    total = made.samples + sum(made.left_out.values())
    if total != kept:
        raise ValueError(f"{layout.root / FOLDER} holds {total:,} samples, stats.json counts {kept:,}; select again")


def _kept(layout: OutputLayout) -> Iterator[Sequence[Sample]]:
    """Yield the kept samples, tar by tar."""
    folder = layout.root / FOLDER
    names = sorted(folder.names(".tar"))
    for name, rows in zip(
        names, in_order(lambda name: read_shard(folder / f"{name}.tar"), names, SHARDS_AHEAD), strict=True
    ):
        samples = [row for row in rows if isinstance(row, Sample)]
        if len(samples) != len(rows):
            raise ValueError(f"{folder / name}.tar is damaged; run polite-flamingo select again")
        yield samples


def _describe(layout: OutputLayout, target: Location, name: Format, made: Export) -> None:
    """Write the card, and for LLaMA-Factory its description."""
    stats, run = read_stats(layout), read_run(layout)
    if run is None:
        raise ValueError(f"{layout.run} is missing, which says how the samples were made; run the same build again")
    with undamaged(layout.stats, "run polite-flamingo select again"):
        statistics, thresholds = Statistics.from_json(stats["statistics"]), Thresholds(**stats["thresholds"])
        origin = stats["annotations"]
        annotations = Annotations(**{**origin, "names": tuple(origin["names"])})
    (target / "README.md").put(card(statistics, thresholds, run, annotations, contents_of(name, made)))
    if name == "sharegpt":
        (target / "dataset_info.json").put(json.dumps(DATASET_INFO, indent=2) + "\n")


main = partial(console.run, "export", __doc__, ExportConfig, export)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
