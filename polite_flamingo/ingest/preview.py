"""Shows what an ingest would write, without writing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from polite_flamingo.ingest.result import IngestConfig, sampling_rank
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Record, Row, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an ingest would write.

    Attributes:
        rows: the rows in file order, including quarantined ones.
        looked_at: how many records were read.
        reasons: the reasons for quarantine, with their counts.
        notes: the source's notes (`Scratch.note`), with their counts.
    """

    rows: Sequence[Row]
    looked_at: int
    reasons: Mapping[str, int]
    notes: Mapping[str, int]


def preview_rows(config: IngestConfig, count: int, look_at: int = 2000) -> Preview:
    """Sample the first records of a source, without writing anything.

    Args:
        config: what to read; `out` is not touched.
        count: the maximum number of samples.
        look_at: the maximum number of records to read.
    """
    source = SOURCES[config.source]
    context = source.context(config.read_options)
    scratch = Scratch()
    seen = list(islice(keyed_records(source, config.read_options, scratch), look_at))
    rows: dict[int, Row] = {number: row for number, row in enumerate(seen) if isinstance(row, Quarantined)}
    records = [(number, row) for number, row in enumerate(seen) if isinstance(row, Record)]
    samples = 0
    records.sort(key=lambda item: sampling_rank(config.seed, item[1].key))
    for number, record in records[: max(200, 10 * count)]:
        if samples == count:
            break
        rows[number] = made = make_sample(source, record, context)
        samples += isinstance(made, Sample)
    reasons = Counter(row.reason for row in rows.values() if isinstance(row, Quarantined))
    return Preview(
        rows=[rows[number] for number in sorted(rows)], looked_at=len(rows), reasons=reasons, notes=scratch.notes
    )
