"""How quarantined rows move to an extra shard without being lost or counted twice, whenever the job is killed.

    OUT/replay/NAME~replay-1.json   intent: these records of NAME's quarantine are being tried again, from this input
    OUT/replay/NAME~replay-1.tar    their samples, read again from the input shard: the extra shard's input

The extra shard's manifest is the commit. `settle`, at the start of every job, finishes what it implies: it removes the
records from NAME's quarantine, lowers the row count in NAME's manifest, and stores the repaired input there. It works
from what is on disk alone, so it can be interrupted and repeated. An intent without that manifest was never committed
and is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from polite_flamingo.faults.guard import with_provenance
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import (
    OutputLayout,
    names_in,
    read_manifest,
    read_quarantine,
    read_scored,
    write_manifest,
    write_quarantine,
)
from polite_flamingo.storage.shards import read_shard, write_atomically, write_shard

WHOLE_SHARD = ("truncated_tar", "unreadable_shard", "empty_shard")
"""Records that stand for a file, and so for any number of rows."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Rows of one shard that can be read now.

    Attributes:
        source: the shard's name.
        samples: the rows.
        taken: the indices of the records they replace.
        input: the shard as it is now, if it was repaired and its other rows are unchanged; else None.
    """

    source: str
    samples: tuple[Sample, ...]
    taken: tuple[int, ...]
    input: InputFile | None = None


def readable_again(layout: OutputLayout, reasons: Collection[str]) -> Iterator[Again]:
    """Look again at each shard with quarantined rows of these reasons (all, when empty); yield where rows can be read.

    A row that still cannot be read stays where it is. Of a file that was damaged and is whole now, every row that was
    never scored is taken.

    Raises:
        ValueError: a row that has been scored is another one now.
    """
    families = _families(layout.finished())
    for name in sorted(families.keys() & {*names_in(layout.quarantine("").parent, ".jsonl")}):
        held = read_quarantine(layout.quarantine(name))
        wanted = [row for row in held if not reasons or row.reason in reasons]
        if not wanted:
            continue
        manifest = read_manifest(layout.manifest(name))
        now = InputFile.at(Path(manifest.shard))
        rows = read_shard(manifest.shard)
        scored = {sample.key: _raw(sample) for part in families[name] for sample in read_scored(layout, part)}
        whole_now = not any(isinstance(row, Quarantined) and row.reason in WHOLE_SHARD for row in rows)
        damaged_before = any(row.reason in WHOLE_SHARD for row in wanted)
        keys = {row.key for row in wanted}
        samples = tuple(
            with_provenance(row, shard=manifest.shard, index=index)
            for index, row in enumerate(rows)
            if isinstance(row, Sample) and row.key not in scored and (row.key in keys or (damaged_before and whole_now))
        )
        found = {sample.key for sample in samples}
        taken = tuple(row.index for row in wanted if (whole_now if row.reason in WHOLE_SHARD else row.key in found))
        repaired = manifest.input is not None and manifest.input.sha256 != now.sha256
        if repaired:
            readable = {row.key: _raw(row) for row in rows if isinstance(row, Sample)}
            if other := [key for key in scored.keys() & readable.keys() if scored[key] != readable[key]]:
                raise ValueError(
                    f"{manifest.shard} has changed in more than its quarantined rows: {min(other)} was scored as "
                    f"another row; to make it again, delete {layout.manifest(name)} and any {name}~replay-*.json "
                    "beside it, and run the build"
                )
            repaired = scored.keys() <= readable.keys() <= scored.keys() | {row.key for row in held} | found
        if samples:
            yield Again(source=name, samples=samples, taken=taken, input=now if repaired else None)


def declare(layout: OutputLayout, again: Again) -> tuple[str, Path]:
    """Write the intent and the extra shard's input; return its name and path."""
    number = 1
    while True:
        name = f"{again.source}~replay-{number}"
        intent = layout.replay / f"{name}.json"
        if not layout.manifest(name).exists() and not intent.exists():
            break
        number += 1
    tar = layout.replay / f"{name}.tar"
    write_shard(tar, again.samples)
    repaired = None if again.input is None else asdict(again.input)
    write_atomically(intent, json.dumps({"source": again.source, "taken": again.taken, "input": repaired}))
    return name, tar


def settle(layout: OutputLayout) -> None:
    """Finish the replays that were committed, forget those that were not."""
    for path in sorted(layout.replay.glob("*.json")):
        intent = json.loads(path.read_text(encoding="utf-8"))
        tar = path.with_suffix(".tar")
        if layout.manifest(path.stem).exists():
            source, taken = intent["source"], set(intent["taken"])
            left = [row for row in read_quarantine(layout.quarantine(source)) if row.index not in taken]
            write_quarantine(layout.quarantine(source), left)
            manifest = read_manifest(layout.manifest(source))
            repaired = InputFile(**intent["input"]) if intent.get("input") else manifest.input
            manifest = replace(manifest, rows_in=manifest.scored + len(left), quarantined=len(left), input=repaired)
            write_manifest(layout.manifest(source), manifest)
            if read_manifest(layout.manifest(path.stem)).quarantined == 0:
                tar.unlink(missing_ok=True)  # else its records point into it
        else:
            tar.unlink(missing_ok=True)
        path.unlink()


def source_of(name: str) -> str:
    """The shard that an extra shard was replayed from, at first hand or not; any other shard itself."""
    return name.partition("~replay-")[0]


def _raw(sample: Sample) -> str:
    """What a row was before it was scored."""
    images = [hashlib.sha256(image.data).hexdigest() for image in sample.images]
    record = replace(sample, rewritten=None, scores={}, provenance={}).to_record()
    return json.dumps([record, images], sort_keys=True)


def _families(names: Sequence[str]) -> dict[str, list[str]]:
    """Each shard with the extra shards replayed from it, and from those in turn."""
    families = {name: [name] for name in names}
    for name in names:
        source = name
        while "~replay-" in source:
            source = source.rpartition("~replay-")[0]
            if source in families:
                families[source].append(name)
    return families
