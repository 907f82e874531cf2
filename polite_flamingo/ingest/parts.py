"""Builds one part of an ingest: reads the images of its records and writes its shards.

Parts are independent, so any worker may build any of them. Building one again gives the same bytes.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from polite_flamingo.ingest.result import IngestConfig
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.source import Context, Record, Row, Source, make_sample
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.ledger import write_quarantine_file
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.storage.store import READ_AHEAD

MAX_SHARD_BYTES = 512 << 20
"""A shard is a block in a worker's memory: a part with larger images is split, NAME-00007.tar and NAME-00007-1.tar."""


def build_part(config: IngestConfig, number: int, offsets: NDArray[np.uint64]) -> None:
    """Write the shards and the quarantine of a part, and last its counts as {number, written, shards, reasons}.

    Args:
        config: what to ingest.
        number: of the part.
        offsets: where its records begin in the spool.
    """
    quarantined: list[Quarantined] = []
    written: list[int] = []
    shards: list[str] = []
    samples = _samples_only(_rows_of_part(config, offsets), quarantined)
    for first in samples:
        piece = f"-{len(shards)}" if shards else ""
        shards.append(f"{config.shard_name}-{number:05d}{piece}.tar")
        written.append(0)
        write_shard(config.place / shards[-1], _up_to_limit(chain([first], samples), written))
    write_quarantine_file(config.work / f"{number:05d}.jsonl", quarantined)
    reasons = Counter(row.reason for row in quarantined)
    part = {"number": number, "written": sum(written), "shards": shards, "reasons": reasons}
    part_file(config, number).put(json.dumps(part))


BUILT = ".built"

_SPARSE = 1 << 16
"""Bytes from one chosen record to the next, from which on those between them are not fetched from a bucket."""


def part_file(config: IngestConfig, number: int) -> Location:
    """Return the place of a built part's counts."""
    return config.work / f"{number:05d}{BUILT}"


def _records(config: IngestConfig, offsets: NDArray[np.uint64]) -> Iterator[Record]:
    place = config.work / "records.jsonl"
    sparse = int(offsets[-1]) - int(offsets[0]) > len(offsets) * _SPARSE
    with place.store.open(place.key, ahead=_SPARSE if sparse else READ_AHEAD) as spool:
        for offset in offsets:
            spool.seek(int(offset))
            yield Record.from_json(json.loads(spool.readline()))


def _rows_of_part(config: IngestConfig, offsets: NDArray[np.uint64]) -> Iterator[Row]:
    """Yield the rows of a part in order.

    One thread is fastest for a local disk (more were twice as slow, measured: they contend for Python's lock). Over a
    network, or with downloads, nearly all the time is waiting, and threads wait in parallel.
    """
    source = SOURCES[config.source]
    context = source.context(config.read_options)
    records = _records(config, offsets)
    if config.threads != 0:
        yield from _made_ahead(config.threads, records, source, context)
        return
    waited = 0.0
    for record in islice(records, _PROBE):
        started, busy = time.perf_counter(), time.thread_time()
        row = make_sample(source, record, context)
        waited += time.perf_counter() - started - (time.thread_time() - busy)
        yield row
    yield from _made_ahead(16 if waited / _PROBE > _SLOW else 1, records, source, context)


_PROBE = 50
_SLOW = 0.001
"""Seconds waited per record; a local disk answers in a tenth of it."""


def _made_ahead(threads: int, records: Iterator[Record], source: Source, context: Context) -> Iterator[Row]:
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


def _samples_only(rows: Iterable[Row], quarantined: list[Quarantined]) -> Iterator[Sample]:
    for row in rows:
        if isinstance(row, Quarantined):
            quarantined.append(row)
        else:
            yield row


def _up_to_limit(samples: Iterator[Sample], written: list[int]) -> Iterator[Sample]:
    """Yield as many samples as a shard takes, counted in `written[-1]`."""
    size = 0
    for sample in samples:
        yield sample
        written[-1] += 1
        size += sum(len(image.data) for image in sample.images)
        if size >= MAX_SHARD_BYTES:
            return
