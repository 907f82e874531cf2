"""Ingest: a raw dataset on disk -> numbered shards of samples, and a quarantine file with what could not become a
sample.

    OUT/NAME-00000.tar, NAME-00001.tar …   NAME is the source's name, unless the user gives another
    OUT/quarantine/NAME.jsonl              absent if nothing was quarantined
    OUT/ingest/NAME.json                   the result; written last
    OUT/ingest/NAME/                       work in progress; removed at the end

`ingest_all` runs four steps. An interrupted ingest resumes each where it stopped:

    gather           streams the annotation files into one spool of joined, keyed records (`keyed_records`)
    choose_records   chooses the records (all, or a seeded sample) and numbers the parts: part 7 becomes NAME-00007
    build_part       a part -> its shard; reads the images (`parts.py`)
    finish           gives the shards their final names

Rows in = written + quarantined + left out by sampling. Which record lies in which shard depends only on the annotation
files and the options, so the same input gives the same names and bytes. Shards get their names only when all are built:
a killed ingest leaves nothing that a build could mistake for a dataset.

Image bytes are copied unchanged. Only their header is checked here: decoding every image would cost more than
everything else together, and the job that decodes them quarantines those that do not decode.
"""

from __future__ import annotations

import json
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from polite_flamingo.ingest.parts import STAGED, build_part, part_file
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
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import read_quarantine_file, write_quarantine_file
from polite_flamingo.storage.location import location, write_atomically
from polite_flamingo.storage.probe import Probe, probing
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

_Views = Mapping[Path, Sequence[Probe | FileState]]
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
    names = Counter((config.out, config.shard_name) for config in configs)
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
    probe = locks.enter_context(probing(location(config.work)))
    paths = (*config.options.annotations, config.options.images)  # the source itself reports missing ones
    seen = [FileState.at(path) for path in paths if path is not None and path.exists()]
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
    todo: list[tuple[IngestConfig, int]] = []
    total = 0
    for config, count in chosen:
        if is_finished(config, count):
            say(config.shard_name, {ALREADY_DONE: 1})
            continue
        parts = choose_records(config, count)
        total += len(parts)
        todo += [(config, number) for number in parts if not part_file(config, number).exists()]
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
        with (
            (config.work / "records.jsonl").open("wb") as spool,
            (config.work / "quarantine.jsonl").open("w", encoding="utf-8") as bad,
        ):
            scratch = Scratch()
            for rows_in, row in enumerate(keyed_records(source, config.read_options, scratch), start=1):
                if isinstance(row, Quarantined):
                    bad.write(row.to_json() + "\n")
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
    np.save(config.work / "offsets.npy", np.frombuffer(offsets, dtype=np.uint64))
    np.save(config.work / "draws.npy", np.frombuffer(draws, dtype=np.uint64))
    found = {"gathered": wanted, "rows_in": rows_in, "records": len(offsets), "notes": scratch.notes}
    write_atomically(config.work / "gathered.json", json.dumps(found))


def choose_records(config: IngestConfig, count: int | None) -> range:
    """Choose the records, the same for the same seed whatever else is sampled; return the numbers of the parts."""
    offsets = np.load(config.work / "offsets.npy")
    if count is not None and count < len(offsets):
        draws = np.load(config.work / "draws.npy")
        offsets = offsets[np.sort(np.argsort(draws, kind="stable")[:count])]
    parts = range(-(-len(offsets) // config.samples_per_shard))
    chosen = config.work / "chosen.json"
    wanted = json.dumps({"count": count, "records": len(offsets)})
    if not chosen.exists() or chosen.read_text(encoding="utf-8") != wanted:
        for stale in config.work.glob("[0-9]*"):
            stale.unlink()
        np.save(config.work / "chosen.npy", offsets)
        write_atomically(chosen, wanted)
    return parts


def finish(config: IngestConfig, count: int | None, seconds: float = 0.0) -> Ingested:
    """Replace the existing shards by those that were built; return the result. Safe to repeat if interrupted."""
    files = sorted(config.work.glob("[0-9]*.part"), key=lambda path: int(path.stem))
    parts, source = [_read(path) for path in files], _read(config.work / "gathered.json")
    chosen = _read(config.work / "chosen.json")["records"]
    assert sum(part["written"] + sum(part["reasons"].values()) for part in parts) == chosen, "a part is missing"

    finals = {name: config.out / name.removesuffix(STAGED) for part in parts for name in part["shards"]}
    for old in shards_of(config):
        if old not in finals.values():
            old.unlink()
    for name, path in finals.items():
        staged = config.work / name
        if staged.exists():  # else an interrupted `finish` has moved it
            staged.replace(path)
    rows = read_quarantine_file(config.work / "quarantine.jsonl")
    for part in parts:
        rows += read_quarantine_file(config.work / f"{part['number']:05d}.jsonl")
    write_quarantine_file(config.quarantine, rows)
    found = {
        "fingerprint": fingerprint(config, count),
        **source,
        "source": config.source,
        "written": sum(part["written"] for part in parts),
        "left_out": source["records"] - chosen,
        "reasons": dict(Counter(row.reason for row in rows).most_common()),
        "shards": [path.name for path in finals.values()],
        "seconds": seconds,
    }
    write_atomically(config.result, json.dumps(found, indent=1) + "\n")
    clear(config.work)
    return read_result(config)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def clear(folder: Path) -> None:
    """Empty a work folder, except for the caller's lock."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != ".lock" and not path.name.startswith(".probe-"):
            path.unlink()


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


def _build_or_error(job: tuple[IngestConfig, int], views: _Views = MappingProxyType({})) -> str:
    config, number = job
    try:
        _check(config, views)
        build_part(config, number)
        try:
            _check(config, views)
        except OSError:  # the images went away meanwhile, so the quarantined rows prove nothing
            part_file(config, number).unlink(missing_ok=True)
            raise
    except (SourceError, OSError) as error:  # a full disk, a folder that this machine does not see
        return f"{config.shard_name}, part {number}: {error}"
    return ""


@contextmanager
def _work_folder(config: IngestConfig) -> Iterator[None]:
    """Create and lock the work folder; afterwards remove it unless work is left in it.

    The folders that were created above it are removed too, unless something else is in them by now.
    """
    made = [folder for folder in (config.work.parent, config.out) if not folder.exists()]
    with exclusive(config.work):
        try:
            yield
        finally:
            if not [path for path in config.work.iterdir() if path.name != ".lock"]:
                shutil.rmtree(config.work)
                with suppress(OSError):  # not empty
                    for folder in made:
                        folder.rmdir()
