"""Move quarantined rows to an extra shard without losing or double-counting any, whenever the job is killed.

    OUT/replay/NAME~replay-1.json   intent: these records of NAME's quarantine are being tried again, from this input
    OUT/replay/NAME~replay-1.tar    their samples, read again from the input shard: the extra shard's input

The extra shard's manifest is the commit. `settle`, at the start of every job, completes what follows from it: it
removes the records from NAME's quarantine, lowers the row count in NAME's manifest, and stores the repaired input
there. It needs only what is on disk, so it can be interrupted and repeated. An intent without that manifest was never
committed and is dropped.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from polite_flamingo.conversations import raw
from polite_flamingo.faults.guard import with_provenance
from polite_flamingo.images.digest import digest
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.attempts import new_attempt
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    change_manifest,
    encode_quarantine,
    named_files,
    read_manifest,
    read_quarantine,
    read_scored,
    undamaged,
    write_file,
)
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard, write_shard

WHOLE_SHARD = ("truncated_tar", "unreadable_shard", "empty_shard")
"""Reasons of records that stand for a whole file, and so for any number of rows."""


@dataclass(frozen=True, kw_only=True)
class ReadableRows:
    """Quarantined rows of one shard that can be read now.

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


def readable_rows(layout: OutputLayout, reasons: Collection[str]) -> Iterator[ReadableRows]:
    """Read each shard with rows quarantined for these reasons (all, if empty) again; yield those with readable rows.

    A row that still cannot be read stays where it is. If a damaged file is whole now, every row that was never scored
    is taken.

    Raises:
        ValueError: a row that was scored has changed.
    """
    families = _families(layout.finished())
    for name in sorted(families.keys() & layout.with_files("quarantine")):
        held = read_quarantine(layout, name)
        wanted = [row for row in held if not reasons or row.reason in reasons]
        if wanted and (found := _readable_rows(layout, name, families[name], held, wanted)):
            yield found


def _readable_rows(
    layout: OutputLayout, name: str, family: Sequence[str], held: Sequence[Quarantined], wanted: Sequence[Quarantined]
) -> ReadableRows | None:
    """Find the rows of one shard, of which `held` are quarantined and `wanted` are asked for."""
    manifest = read_manifest(layout.manifest(name))
    now = InputFile.at(location(manifest.shard))
    rows = read_shard(manifest.shard)
    scored = {sample.key: _raw(sample) for part in family for sample in read_scored(layout, part)}
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
    repaired = manifest.input is not None and (manifest.input.sha256, manifest.input.tag) != (now.sha256, now.tag)
    if repaired:
        readable = {row.key: _raw(row) for row in rows if isinstance(row, Sample)}
        if other := [key for key in scored.keys() & readable.keys() if scored[key] != readable[key]]:
            raise ValueError(
                f"{manifest.shard} has changed in more than its quarantined rows: {min(other)} was scored as another "
                f"row; to make the shard again, delete {layout.manifest(name)} and any {name}~replay-*.json beside "
                "it, and run the build"
            )
        repaired = scored.keys() <= readable.keys() <= scored.keys() | {row.key for row in held} | found
    return ReadableRows(source=name, samples=samples, taken=taken, input=now if repaired else None) if samples else None


def declare(layout: OutputLayout, rows: ReadableRows) -> tuple[str, Location]:
    """Write the intent and the extra shard's input; return its name and place."""
    names = (f"{rows.source}~replay-{number}" for number in itertools.count(1))
    intents = ((name, layout.replay / f"{name}.json") for name in names)
    name, intent = next(one for one in intents if not one[1].exists() and not layout.manifest(one[0]).exists())
    tar = layout.replay / f"{name}.tar"
    write_shard(tar, rows.samples)
    repaired = None if rows.input is None else asdict(rows.input)
    intent.put(json.dumps({"source": rows.source, "taken": rows.taken, "input": repaired}))
    return name, tar


def settle(layout: OutputLayout) -> None:
    """Complete the replays that were committed, drop those that were not."""
    for name in sorted(layout.replay.names(".json")):
        place, tar = layout.replay / f"{name}.json", layout.replay / f"{name}.tar"
        if layout.manifest(name).exists():
            with undamaged(place, "restore it from a copy; it says which quarantined rows that shard replaces"):
                intent = json.loads(place.read_text())
                source, taken, repaired = intent["source"], {*intent["taken"]}, intent.get("input")
            _take_from_quarantine(layout, source, taken, repaired)
            if read_manifest(layout.manifest(name)).quarantined == 0:
                tar.delete()  # else its records point into it
        else:
            tar.delete()
        place.delete()


def _take_from_quarantine(
    layout: OutputLayout, source: str, taken: Collection[int], repaired: Mapping[str, Any] | None
) -> None:
    """Write the quarantine of a shard without these records, and make its manifest name the new file."""

    def change(manifest: Manifest) -> Manifest:
        left = [row for row in read_quarantine(layout, source) if row.index not in taken]
        file = write_file(layout, source, new_attempt(), "quarantine", encode_quarantine(left)) if left else None
        files = {**named_files(layout, source, manifest), "quarantine": file}
        return replace(
            manifest,
            rows_in=manifest.scored + len(left),
            quarantined=len(left),
            input=InputFile(**repaired) if repaired else manifest.input,
            files={kind: file for kind, file in files.items() if file is not None},
        )

    change_manifest(layout, source, change)


def source_of(name: str) -> str:
    """Return the shard that an extra shard was replayed from, directly or not; for any other shard, itself."""
    return name.partition("~replay-")[0]


def _raw(sample: Sample) -> str:
    """Return the content of a row before it was scored, to compare it."""
    images = [digest(image.data) for image in sample.images]
    record = raw(sample).to_record()
    return json.dumps([record, images], sort_keys=True)


def _families(names: Sequence[str]) -> dict[str, list[str]]:
    """Map each shard to itself and the extra shards replayed from it, directly or not."""
    families = {name: [name] for name in names}
    for name in names:
        source = name
        while "~replay-" in source:
            source = source.rpartition("~replay-")[0]
            if source in families:
                families[source].append(name)
    return families
