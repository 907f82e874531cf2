"""Write the kept samples of a build, or pairs and rated answers, in the format of a trainer or a hub.

    polite-flamingo export --out out/demo --format sharegpt --to exports/sharegpt
    polite-flamingo export --out out/demo --format openai --pictures paths --to s3://bucket/openai
    polite-flamingo export --out out/pairs --format trl --to exports/trl

Reads the last selection (or pairs, see `export_inputs.py`) shard by shard, holds a few of them, and writes files of
bounded size. `export.json` is written last: without it an export is not finished, and the same command makes it again.
An export that is finished and of the same input is left alone; any other of ours is replaced. `polite-flamingo push`
uploads it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from polite_flamingo.exports.formats import EXPORTS, Export, Format, OpenaiPathsExport
from polite_flamingo.preference.formats.exports import PREFERENCE_EXPORTS, PreferenceFormat
from polite_flamingo.storage.hub_files import SCHEME
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import undamaged
from polite_flamingo.storage.location import Location, location
from ray_jobs import console, progress
from ray_jobs.export_inputs import ExportInput, input_of

OURS = ("data", "images", "llava.json", "dataset_info.json", "README.md")
"""What an export may hold beside `export.json`; nothing else in its folder is touched."""

AnyFormat = Literal[Format, PreferenceFormat]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """An export.

    Attributes:
        out: the output folder of a build; for formats of pairs and ratings that of `pair`, or any folder of shards.
        format: what to write.
        to: a folder of its own for the export, or an address (s3://, gs://, az://).
        pictures: of the format openai; as data URLs in the records, or as paths of files beside them.
        shard_mb: megabytes of a file, roughly; llava.json is one file.
    """

    out: str
    format: AnyFormat
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
        ValueError: OUT has nothing to export, a file of it is damaged, or the folder of the export is not ours.
    """
    source, target = input_of(config.out, config.format), location(config.to)
    inside, outside = str(target.absolute()).rstrip("/"), str(location(config.out).absolute()).rstrip("/")
    if inside == outside or inside.startswith(f"{outside}/"):
        raise ValueError(f"--to {config.to} is in the output folder, which its job sweeps; give another folder")
    state = source.state()
    order = {"format": config.format, "pictures": config.pictures, "shard_mb": config.shard_mb, "selection": state}
    with exclusive(target):
        done = _begin(target, config.to)
        if {name: done.get(name) for name in order} == order and done.get("finished"):
            print(f"{done['counts']}; already in {target}")
            return
        (target / "export.json").put(json.dumps({**order, "finished": False}) + "\n")
        for name in OURS:
            (target / name).delete_tree() if "." not in name else (target / name).delete()
        with _kind(config)(target, config.shard_mb * 1_000_000) as made:
            _write(source, made)
        source.describe(target, made)
        if source.state() != state:
            raise ValueError(f"{config.out} has changed meanwhile; run the same command again")
        counts = source.counts(made)
        figures = {"records": made.records, "samples": made.samples, "left_out": dict(made.left_out)}
        last = {**order, "finished": True, "counts": counts, **figures}
        (target / "export.json").put(json.dumps(last, indent=1) + "\n")
        print(f"{counts}; in {target}")


def _kind(config: ExportConfig) -> type[Export]:
    if config.pictures == "paths":
        return OpenaiPathsExport
    kinds = dict[str, type[Export]]([*EXPORTS.items(), *PREFERENCE_EXPORTS.items()])
    return kinds[config.format]


def _begin(target: Location, given: str) -> dict[str, Any]:
    """Return what the last export into the folder noted; nothing for an empty one. Raises `ValueError` for others."""
    note = target / "export.json"
    if note.exists():
        with undamaged(note, "delete the folder and export again"):
            return dict(json.loads(note.read_text()))
    if names := [name for name in target.names("", at_most=3) if name not in (".lock", "lock.json")]:
        raise ValueError(f"{given} holds other files ({names[0]}); give a new or empty folder, or that of an export")
    return {}


def _write(source: ExportInput, made: Export) -> None:
    """Write all samples. Raises `ValueError` if there are not as many as their job counted."""
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} samples, {elapsed}{postfix}"
    with progress.bar(source.expected() or 0, form) as bar:
        for samples in source.shards():
            made.add(samples)
            bar.update(len(samples))
    total, expected = made.samples + sum(made.left_out.values()), source.expected()
    if expected is not None and total != expected:
        raise ValueError(f"{source.folder} holds {total:,} samples, stats.json counts {expected:,}; {source.remedy}")


main = partial(console.run, "export", __doc__, ExportConfig, export)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
