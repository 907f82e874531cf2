"""Ingest: a raw dataset -> numbered shards of samples, and a quarantine file with what could not become a sample.

    OUT/NAME-00000.tar, NAME-00001.tar …   NAME is the source's name, unless the user gives another
    OUT/quarantine/NAME.jsonl              absent if nothing was quarantined
    OUT/ingest/NAME.json                   the result; written last
    OUT/ingest/NAME/                       work in progress; removed at the end. While `UNFINISHED` is in it, no job
                                           reads the shards of that name (`discovery.py`)

`ingest_all` runs four steps. An interrupted ingest resumes each where it stopped:

    gather           streams the annotation files into one spool of joined, keyed records (`keyed_records`)
    choose_records   chooses the records (all, or a seeded sample) and numbers the parts: part 7 becomes NAME-00007
    build_part       a part -> its shard; reads the images (`parts.py`)
    finish           removes older shards, and writes the result

Rows in = written + quarantined + left out by sampling. Which record lies in which shard depends only on the annotation
files and the options, so the same input gives the same names and bytes. Nothing is renamed at the end, which a bucket
cannot; spools are written on this machine first. Annotations and images are read where they lie, from a disk or a
bucket.

Image bytes are copied unchanged. Only their header is checked here: decoding every image would cost more than
everything else together, and the job that decodes them quarantines those that do not decode.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polite_flamingo.ingest.parts import BUILT, build_part, part_file
from polite_flamingo.ingest.result import (
    IngestConfig,
    Ingested,
    fingerprint,
    gathered,
    is_finished,
    read_result,
    refuse_to_replace,
    sampling_rank,
    shards_of,
)
from polite_flamingo.sample import Quarantined
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import keyed_records
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.discovery import UNFINISHED
from polite_flamingo.storage.disk import sweep_temporary
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import read_quarantine_file, write_quarantine_file
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.probe import Probe, probing
from polite_flamingo.storage.remote_path import RemotePath
from polite_flamingo.storage.visibility import FileState

__all__ = ["IngestConfig", "Ingested", "Say", "Spread", "Tick", "ingest", "ingest_all"]

ALREADY_DONE = (
    "its shards are here already, from the same annotation files; changed pictures under the same names would "
    "not be noticed: --fresh reads all again"
)

Tick = Callable[[str, int, int], None]
"""Called with the current step, how much of it is done, and the total (0: unknown)."""

Say = Callable[[str, Mapping[str, int]], None]
"""Called with the name of a source's shards and its notes (`Scratch.note`), each with its count."""

Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs independent jobs, in any order and anywhere; `map` runs them in this process."""

_Job = tuple[IngestConfig, int, NDArray[np.uint64]]
"""A source, the number of a part, and where its records begin in the spool."""

_Views = Mapping[Location, Sequence[Probe | FileState]]
"""By work folder, what every worker of a source must see as this machine does: its files, and the work folder."""


def ingest(config: IngestConfig, *, count: int | None = None) -> Ingested:
    """Ingest one source in this process: `count` of its records, or all. Raises as `ingest_all` does."""
    return ingest_all([config], lambda sizes: [count])[0]


def ingest_all(
    configs: Sequence[IngestConfig],
    choose: Callable[[Sequence[int]], Sequence[int | None]] = lambda sizes: [None] * len(sizes),
    *,
    spread: Spread = map,
    tick: Tick = lambda step, done, total: None,
    say: Say = lambda name, notes: None,
) -> list[Ingested]:
    """Run all steps for several sources; what is already finished for the same input is not repeated.

    Args:
        configs: what to read and where to write; their shard names must differ.
        choose: given the number of records of each source, how many to sample of each; None takes all.
        spread: runs the jobs.
        tick: reports progress.
        say: receives each source's notes once its annotations are read, before a shard is written.

    Raises:
        SourceError: an annotation file as a whole is unusable, or the folder has other shards of that name.
        ValueError: two sources would write the same shards, or another process is working on one.
        OSError: the disk is full, or a worker does not see the same files as the others.
    """
    configs = [config.located for config in configs]
    names = Counter((config.place, config.shard_name) for config in configs)
    for (_, name), times in names.items():
        if times > 1:
            raise ValueError(f"{times} sources would write shards called {name!r}: give them different names")
    with ExitStack() as locks:
        started = time.monotonic()
        views = {config.work: _prepare(config, locks) for config in configs}
        _gather_all(configs, spread, views, tick)
        for config in configs:
            say(config.shard_name, (gathered(config) or {}).get("notes", {}))
        counts = choose([(gathered(config) or {}).get("records", 0) for config in configs])
        chosen = list(zip(configs, counts, strict=True))
        _build_all(chosen, spread, views, tick, say)
        seconds = time.monotonic() - started
        return [
            read_result(config) if is_finished(config, count) else finish(config, count, seconds)
            for config, count in chosen
        ]


def _prepare(config: IngestConfig, locks: ExitStack) -> Sequence[Probe | FileState]:
    """Take the work folder of a source; return what its workers must see."""
    locks.enter_context(_work_folder(config))
    probe = locks.enter_context(probing(config.work))
    given = (*config.options.annotations, config.options.images)  # the source itself reports missing ones
    paths = [path for path in given if path is not None and not isinstance(path, RemotePath)]
    seen = [FileState.at(path) for path in paths if path.exists()]
    if config.fresh:
        clear(config.work)
    return [probe, *seen]


def _gather_all(configs: Sequence[IngestConfig], spread: Spread, views: _Views, tick: Tick) -> None:
    """Gather the sources that are not gathered yet: one in this process, several wherever `spread` runs them."""
    new = [config for config in configs if config.fresh or gathered(config) is None]
    for config in new:
        refuse_to_replace(config)
    if len(new) == 1:
        gather(new[0], lambda rows: tick(f"{new[0].shard_name}: rows read", rows, 0))
        return
    for done, error in enumerate(spread(partial(_gather_or_error, views=views), new), start=1):
        if error:
            raise SourceError(error)
        tick("sources read", done, len(new))


def _build_all(
    chosen: Sequence[tuple[IngestConfig, int | None]], spread: Spread, views: _Views, tick: Tick, say: Say
) -> None:
    """Choose the records of each source, and build the parts that are not built yet."""
    todo: list[_Job] = []
    total = 0
    for config, count in chosen:
        if is_finished(config, count):
            say(config.shard_name, {ALREADY_DONE: 1})
            continue
        parts = choose_records(config, count)
        total += len(parts)
        begin(config)
        built = set(config.work.names(BUILT))
        todo += [(config, number, part) for number, part in enumerate(parts) if f"{number:05d}" not in built]
    before = total - len(todo)
    if total:
        tick("shards built", before, total)
    for done, error in enumerate(spread(partial(_build_or_error, views=views), todo), start=1):
        if error:
            raise OSError(error)
        tick("shards built", before + done, total)


def gather(config: IngestConfig, tick: Callable[[int], None] = lambda rows: None) -> None:
    """Stream the annotation files into OUT/ingest/NAME/records.jsonl.

    Raises:
        SourceError: an annotation file as a whole is unusable; nothing is left behind.
    """
    wanted = fingerprint(config, None)
    clear(config.work)
    source = SOURCES[config.source]
    offsets, draws = array("Q"), array("Q")
    rows_in = offset = 0
    try:
        source.context(config.read_options)  # report a missing image folder before an hour of reading
        with (config.work / "records.jsonl").writer() as spool, (config.work / "quarantine.jsonl").writer() as bad:
            scratch = Scratch()
            for rows_in, row in enumerate(keyed_records(source, config.read_options, scratch), start=1):
                if isinstance(row, Quarantined):
                    bad.write(f"{row.to_json()}\n".encode())
                else:
                    line = json.dumps(row.to_json()).encode() + b"\n"
                    offsets.append(offset)
                    draws.append(sampling_rank(config.seed, row.key))
                    offset += spool.write(line)
                if rows_in % 1000 == 0:
                    tick(rows_in)
    except BaseException:
        clear(config.work)
        raise
    for name, values in (("offsets.npy", offsets), ("draws.npy", draws)):
        with (config.work / name).writer() as file:
            np.save(file, np.frombuffer(values, dtype=np.uint64))
    found = {"gathered": wanted, "rows_in": rows_in, "records": len(offsets), "notes": scratch.notes}
    (config.work / "gathered.json").put(json.dumps(found))


def choose_records(config: IngestConfig, count: int | None) -> list[NDArray[np.uint64]]:
    """Choose the records, the same for the same seed whatever else is sampled; return where those of each part begin.

    Parts that were built of another choice are removed.
    """
    offsets = _load(config.work / "offsets.npy")
    if count is not None and count < len(offsets):
        draws = _load(config.work / "draws.npy")
        offsets = offsets[np.sort(np.argsort(draws, kind="stable")[:count])]
    chosen = config.work / "chosen.json"
    wanted = json.dumps({"count": count, "records": len(offsets)})
    if not chosen.exists() or chosen.read_text() != wanted:
        config.work.store.delete([(config.work / name).key for name in config.work.names() if name[:1].isdigit()])
        chosen.put(wanted)
    size = config.samples_per_shard
    return [offsets[first : first + size] for first in range(0, len(offsets), size)]


def begin(config: IngestConfig) -> None:
    """Hide the shards of this name from jobs until they are complete; forget the result of those before."""
    config.unfinished.put("")
    config.result.delete()


def finish(config: IngestConfig, count: int | None, seconds: float = 0.0) -> Ingested:
    """Remove the shards that are not of this ingest; write and return the result. Safe to repeat if interrupted."""
    names = config.work.names(BUILT)
    parts = sorted((_read(part_file(config, int(name))) for name in names), key=lambda part: part["number"])
    source = _read(config.work / "gathered.json")
    chosen = _read(config.work / "chosen.json")["records"]
    assert sum(part["written"] + sum(part["reasons"].values()) for part in parts) == chosen, "a part is missing"

    shards = [name for part in parts for name in part["shards"]]
    config.place.store.delete([place.key for place in shards_of(config) if place.name not in shards])
    rows = read_quarantine_file(config.work / "quarantine.jsonl")
    for part in parts:
        rows += read_quarantine_file(config.work / f"{part['number']:05d}.jsonl") if part["reasons"] else []
    write_quarantine_file(config.quarantine, rows)
    found = {
        "fingerprint": fingerprint(config, count),
        **source,
        "source": config.source,
        "written": sum(part["written"] for part in parts),
        "left_out": source["records"] - chosen,
        "reasons": dict(Counter(row.reason for row in rows).most_common()),
        "shards": shards,
        "seconds": seconds,
    }
    config.result.put(json.dumps(found, indent=1) + "\n")
    clear(config.work)
    config.unfinished.delete()
    return read_result(config)


def _read(place: Location) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def _load(place: Location) -> Any:
    return np.load(io.BytesIO(place.read_bytes()))


def clear(folder: Location) -> None:
    """Empty a work folder, except for what says that it is taken and unfinished."""
    if folder.local is not None:
        folder.local.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder.local)
    names = [name for name in folder.names() if name not in ("lock.json", UNFINISHED) and name[:6] != ".probe"]
    folder.store.delete([(folder / name).key for name in names])


def _check(config: IngestConfig, views: _Views) -> None:
    """Raise `PathUnavailable` if this machine does not see what the driver saw."""
    for view in views.get(config.work, ()):
        view.check()


def _gather_or_error(config: IngestConfig, views: _Views) -> str:
    """Return the error as text: an exception in a worker would arrive as its traceback."""
    try:
        _check(config, views)
        gather(config)
    except (SourceError, OSError) as error:
        return str(error)
    return ""


def _build_or_error(job: _Job, views: _Views = MappingProxyType({})) -> str:
    config, number, offsets = job
    try:
        _check(config, views)
        build_part(config, number, offsets)
        try:
            _check(config, views)
        except OSError:  # the images went away meanwhile, so the quarantined rows prove nothing
            part_file(config, number).delete()
            raise
    except (SourceError, OSError) as error:  # a full disk, a folder that this machine does not see
        return f"{config.shard_name}, part {number}: {error}"
    return ""


@contextmanager
def _work_folder(config: IngestConfig) -> Iterator[None]:
    """Take the work folder; afterwards remove it unless work is left in it.

    The folders that were created above it are removed too, unless something else is in them by now.
    """
    work, out = config.work.local, config.place.local
    if work is None or out is None:
        with exclusive(config.work):
            yield
        return
    made = [folder for folder in (work.parent, out) if not folder.exists()]
    with exclusive(config.work):
        try:
            yield
        finally:
            if not [path for path in work.iterdir() if path.name != ".lock"]:
                shutil.rmtree(work)
                with suppress(OSError):  # not empty
                    for folder in made:
                        folder.rmdir()
