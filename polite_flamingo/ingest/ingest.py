"""A raw dataset on disk -> numbered shards of samples, and a quarantine file with what could not become a sample.

    OUT/NAME-00000.tar, NAME-00001.tar …   NAME is the source's name, or another that tells two parts of it apart
    OUT/quarantine/NAME.jsonl              absent where nothing was quarantined
    OUT/ingest/NAME.json                   what came of it; written last
    OUT/ingest/NAME/                       work in progress, gone at the end

Four steps, each of which an interrupted ingest takes up where it stopped:

    gather   streams the annotation files into one spool of joined, keyed records (`keyed_records`)
    cut      chooses the records (all, or a seeded sample) and numbers the parts: part 7 will be shard NAME-00007
    build    a part -> its shard: reads the images, several at once; parts are independent, so any worker may build any
    finish   gives the shards their final names

Rows in = written + quarantined + left out by sampling. Which record lies in which shard hangs on the annotation files
and the options alone, so the same input gives the same names and bytes, whoever builds. Shards get their names only
when all are built: a killed ingest leaves nothing that a build could mistake for a dataset.

Image bytes go through as they are. Only their header is checked here: decoding every image would cost more than
everything else together, and what does not decode is quarantined by the job that decodes it anyway.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from polite_flamingo.ingest.result import (
    Gathered,
    IngestConfig,
    Ingested,
    Part,
    fingerprint,
    is_finished,
    known_notes,
    known_size,
    read_result,
    refuse_to_replace,
    shards_of,
)
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources import SOURCES, Row, SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Context, Record, Source, keyed_records, make_sample
from polite_flamingo.storage.ledger import exclusive, read_quarantine, write_quarantine
from polite_flamingo.storage.shards import write_atomically, write_shard
from polite_flamingo.storage.visibility import Probe, Seen, probing

__all__ = ["IngestConfig", "Ingested", "Preview", "Say", "Spread", "Tick", "ingest", "ingest_all", "preview_rows"]

MAX_SHARD_BYTES = 512 << 20
"""A shard is a block in a worker's memory: a part with larger images is split, NAME-00007.tar and NAME-00007-1.tar."""

ALREADY = (
    "its shards are here already, of the same annotation files; pictures that have changed under the same names would "
    "not be noticed: --fresh reads all again"
)

Tick = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much (0: not known)."""

Say = Callable[[str, Mapping[str, int]], None]
"""Is told what a source noted (`Scratch.note`): its shards' name, and each line with how often it was noted."""

Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Does independent jobs, in any order and anywhere; `map` does them here."""


def ingest(config: IngestConfig, *, count: int | None = None) -> Ingested:
    """One source, in this process; of its records `count`, or all. Raises `SourceError` as `ingest_all`."""
    return ingest_all([config], lambda sizes: [count])[0]


def ingest_all(
    configs: Sequence[IngestConfig],
    choose: Callable[[Sequence[int]], Sequence[int | None]] = lambda sizes: [None] * len(sizes),
    *,
    spread: Spread = map,
    tick: Tick = lambda step, done, total: None,
    say: Say = lambda name, notes: None,
) -> list[Ingested]:
    """All steps for several sources; what is finished already, of the same input, is not done again.

    Args:
        configs: what and where; their shards must have different names.
        choose: from the numbers of records of the sources, how many to sample of each; None takes all.
        spread: who does the work.
        tick: sees how it goes.
        say: hears each source's notes when its annotations are read, before a shard is written.

    Raises:
        SourceError: an annotation file as a whole is unusable, or the folder holds other shards of such a name.
        ValueError: two sources would have the same shards; or another process is at work on one.
        OSError: the disk is full, or a worker does not see what the others see.
    """
    configs = [config.located for config in configs]
    names = Counter((config.out, config.shard_name) for config in configs)
    for (_, name), times in names.items():
        if times > 1:
            raise ValueError(f"{times} sources would write shards called {name!r}: give them different names")
    with ExitStack() as locks:
        started = time.monotonic()
        sights: dict[Path, _Sight] = {}
        for config in configs:
            locks.enter_context(_locked(config))
            sights[config.work] = _Sight(probe=locks.enter_context(probing(config.work)), seen=_seen(config))
            if config.fresh:
                _empty(config.work)
        new = [config for config in configs if config.fresh or known_size(config) is None]
        for config in new:
            refuse_to_replace(config)
        if len(new) == 1:
            gather(new[0], lambda rows: tick(f"{new[0].shard_name}: rows read", rows, 0))
        else:
            for done, error in enumerate(spread(partial(_gather_job, sights=sights), new), start=1):
                if error:
                    raise SourceError(error)
                tick("sources read", done, len(new))
        for config in configs:
            say(config.shard_name, known_notes(config))
        counts = choose([known_size(config) or 0 for config in configs])
        todo: list[tuple[IngestConfig, int]] = []
        total = 0
        for config, count in zip(configs, counts, strict=True):
            if is_finished(config, count):
                say(config.shard_name, {ALREADY: 1})
            else:
                parts = cut(config, count)
                total += len(parts)
                todo += [(config, number) for number in parts if not _part_file(config, number).exists()]
        before = total - len(todo)
        if total:
            tick("shards built", before, total)
        for done, error in enumerate(spread(partial(_build_job, sights=sights), todo), start=1):
            if error:
                raise OSError(error)
            tick("shards built", before + done, total)
        seconds = time.monotonic() - started
        return [
            read_result(config) if is_finished(config, count) else finish(config, count, seconds)
            for config, count in zip(configs, counts, strict=True)
        ]


def gather(config: IngestConfig, tick: Callable[[int], None] = lambda rows: None) -> Gathered:
    """Stream the annotation files into OUT/ingest/NAME/records.jsonl, unless that is done already.

    Raises:
        SourceError: an annotation file as a whole is unusable; nothing is left behind.
    """
    done = config.work / "gathered.json"
    wanted = fingerprint(config, None)
    if done.exists():
        found = json.loads(done.read_text(encoding="utf-8"))
        if found.pop("gathered") == wanted:
            return Gathered(**found)
    _empty(config.work)
    source = SOURCES[config.source]
    offsets, draws = array("Q"), array("Q")
    rows_in = offset = 0
    try:
        source.context(config.read_options)  # a missing image folder is said before an hour of reading
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
                    draws.append(_draw(config.seed, row.key))
                    offset += spool.write(line)
                if rows_in % 1000 == 0:
                    tick(rows_in)
    except BaseException:
        _empty(config.work)
        raise
    np.save(config.work / "offsets.npy", np.frombuffer(offsets, dtype=np.uint64))
    np.save(config.work / "draws.npy", np.frombuffer(draws, dtype=np.uint64))
    gathered = Gathered(rows_in=rows_in, records=len(offsets), notes=scratch.notes)
    write_atomically(done, json.dumps({"gathered": wanted, **dataclasses.asdict(gathered)}))
    return gathered


def cut(config: IngestConfig, count: int | None) -> range:
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


def build_part(config: IngestConfig, number: int) -> Part:
    """Build one part: its shards and its quarantine are on disk, and last its count. Done again, it does the same."""
    quarantined: list[Quarantined] = []
    written: list[int] = []
    shards: list[Path] = []
    samples = _good(_built(config, number), quarantined)
    while (first := next(samples, None)) is not None:
        shards.append(_staged(config, number, len(shards)))
        written.append(0)
        write_shard(shards[-1], _up_to_limit(chain([first], samples), written))
    write_quarantine(config.work / f"{number:05d}.jsonl", quarantined)
    reasons = Counter(row.reason for row in quarantined)
    part = Part(number=number, written=sum(written), shards=tuple(path.name for path in shards), reasons=dict(reasons))
    write_atomically(_part_file(config, number), json.dumps(dataclasses.asdict(part)))
    return part


def finish(config: IngestConfig, count: int | None, seconds: float = 0.0) -> Ingested:
    """Replace what is there by what was built, and say what it is. An interrupted one may be finished again."""
    parts = [_read_part(path) for path in sorted(config.work.glob("[0-9]*.part"), key=lambda path: int(path.stem))]
    gathered = json.loads((config.work / "gathered.json").read_text(encoding="utf-8"))
    chosen = json.loads((config.work / "chosen.json").read_text(encoding="utf-8"))["records"]
    assert sum(part.written + sum(part.reasons.values()) for part in parts) == chosen, "a part is missing"

    finals = {name: config.out / name.removesuffix(_STAGED) for part in parts for name in part.shards}
    for old in shards_of(config):
        if old not in finals.values():
            old.unlink()
    for name, path in finals.items():
        staged = config.work / name
        if staged.exists():  # else an interrupted `finish` has moved it
            staged.replace(path)
    rows = read_quarantine(config.work / "quarantine.jsonl")
    for part in parts:
        rows += read_quarantine(config.work / f"{part.number:05d}.jsonl")
    write_quarantine(config.quarantine, rows)
    found = {
        "fingerprint": fingerprint(config, count),
        "gathered": gathered["gathered"],
        "records": gathered["records"],
        "source": config.source,
        "rows_in": gathered["rows_in"],
        "written": sum(part.written for part in parts),
        "left_out": gathered["records"] - chosen,
        "reasons": dict(Counter(row.reason for row in rows).most_common()),
        "notes": gathered.get("notes", {}),
        "shards": [path.name for path in finals.values()],
        "seconds": seconds,
    }
    write_atomically(config.result, json.dumps(found, indent=1) + "\n")
    _empty(config.work)
    return read_result(config)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an ingest would write.

    Attributes:
        rows: in the order of the files, quarantined ones among them.
        looked_at: how many records were read.
        reasons: of those quarantined, with their counts.
        notes: what the source noted (`Scratch.note`), with how often.
    """

    rows: Sequence[Row]
    looked_at: int
    reasons: Mapping[str, int]
    notes: Mapping[str, int]


def preview_rows(config: IngestConfig, count: int, look_at: int = 2000) -> Preview:
    """What an ingest would write, without writing: samples spread over the first records of the source.

    Args:
        config: what to read; `out` is not touched.
        count: of samples, at most.
        look_at: records that are read, at most.
    """
    source = SOURCES[config.source]
    context = source.context(config.read_options)
    scratch = Scratch()
    seen = list(islice(keyed_records(source, config.read_options, scratch), look_at))
    rows: dict[int, Row] = {number: row for number, row in enumerate(seen) if isinstance(row, Quarantined)}
    records = [(number, row) for number, row in enumerate(seen) if isinstance(row, Record)]
    samples = 0
    for number, record in sorted(records, key=lambda item: _draw(config.seed, item[1].key))[: max(200, 10 * count)]:
        if samples == count:
            break
        rows[number] = made = make_sample(source, record, context)
        samples += isinstance(made, Sample)
    reasons = Counter(row.reason for row in rows.values() if isinstance(row, Quarantined))
    return Preview(
        rows=[rows[number] for number in sorted(rows)], looked_at=len(rows), reasons=reasons, notes=scratch.notes
    )


_STAGED = ".staged"
"""Ends the name of a built shard of an unfinished ingest; `ledger.shard_names` does not see it."""


def _draw(seed: int, key: str) -> int:
    """A number from 0 to 2^64 - 1 that hangs on seed and key alone: the records of the smallest ones are chosen."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big")


def _empty(folder: Path) -> None:
    """Of everything but the lock that whoever calls holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != ".lock" and not path.name.startswith(".probe-"):
            path.unlink()


def _staged(config: IngestConfig, number: int, piece: int) -> Path:
    return config.work / f"{config.shard_name}-{number:05d}{f'-{piece}' if piece else ''}.tar{_STAGED}"


def _part_file(config: IngestConfig, number: int) -> Path:
    return config.work / f"{number:05d}.part"


def _read_part(path: Path) -> Part:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Part(**{**values, "shards": tuple(values["shards"])})


@dataclass(frozen=True, kw_only=True)
class _Sight:
    """What whoever works on a source must see as this machine does: its files, and the folder of the work."""

    probe: Probe
    seen: tuple[Seen, ...]

    def check(self) -> None:
        """Raises `OutOfReach`."""
        self.probe.check()
        for one in self.seen:
            one.check()


def _seen(config: IngestConfig) -> tuple[Seen, ...]:
    """What is not there is for the source to say, in its own words."""
    paths = (*config.options.annotations, config.options.images)
    return tuple(Seen.at(path) for path in paths if path is not None and path.exists())


def _gather_job(config: IngestConfig, sights: Mapping[Path, _Sight]) -> str:
    """Errors travel as text: an exception of a worker arrives as its traceback."""
    try:
        sights[config.work].check()
        gather(config)
    except (SourceError, OSError) as error:
        return str(error)
    return ""


def _build_job(job: tuple[IngestConfig, int], sights: Mapping[Path, _Sight] = MappingProxyType({})) -> str:
    config, number = job
    check = sights[config.work].check if config.work in sights else lambda: None
    try:
        check()
        build_part(config, number)
        try:
            check()
        except OSError:  # the images went away meanwhile: rows that miss theirs are no result
            _part_file(config, number).unlink(missing_ok=True)
            raise
    except (SourceError, OSError) as error:  # a full disk, a folder that this machine does not see
        return f"{config.shard_name}, part {number}: {error}"
    return ""


@contextmanager
def _locked(config: IngestConfig) -> Iterator[None]:
    """The folder of the work is there and ours; afterwards it is gone unless work is left in it.

    So are the folders above it that were made for it, unless something else is in them now.
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


def _records(config: IngestConfig, number: int) -> Iterator[Record]:
    chosen = np.load(config.work / "chosen.npy", mmap_mode="r")
    first = number * config.samples_per_shard
    with (config.work / "records.jsonl").open("rb") as spool:
        for offset in chosen[first : first + config.samples_per_shard]:
            spool.seek(int(offset))
            yield Record.from_json(json.loads(spool.readline()))


def _built(config: IngestConfig, number: int) -> Iterator[Row]:
    """The rows of a part in order.

    From a local disk one thread is fastest (Python's threads get in each other's way: twice as slow, measured); over a
    network or with downloads nearly all the time is waiting, and threads wait together.
    """
    source = SOURCES[config.source]
    context = source.context(config.read_options)
    records = _records(config, number)
    if config.threads != 0:
        yield from _ahead(config.threads, records, source, context)
        return
    waited = 0.0
    for record in islice(records, _PROBE):
        started, busy = time.perf_counter(), time.thread_time()
        row = make_sample(source, record, context)
        waited += time.perf_counter() - started - (time.thread_time() - busy)
        yield row
    yield from _ahead(16 if waited / _PROBE > _SLOW else 1, records, source, context)


_PROBE = 50
_SLOW = 0.001
"""Seconds: a disk that is near answers in a tenth of it."""


def _ahead(threads: int, records: Iterator[Record], source: Source, context: Context) -> Iterator[Row]:
    if threads == 1:
        yield from (make_sample(source, record, context) for record in records)
        return
    ahead: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for record in records:
            ahead.append(pool.submit(make_sample, source, record, context))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _good(rows: Iterable[Row], quarantined: list[Quarantined]) -> Iterator[Sample]:
    for row in rows:
        if isinstance(row, Quarantined):
            quarantined.append(row)
        else:
            yield row


def _up_to_limit(samples: Iterator[Sample], written: list[int]) -> Iterator[Sample]:
    """As many as a shard takes, counted in `written[-1]`."""
    size = 0
    for sample in samples:
        yield sample
        written[-1] += 1
        size += sum(len(image.data) for image in sample.images)
        if size >= MAX_SHARD_BYTES:
            return
