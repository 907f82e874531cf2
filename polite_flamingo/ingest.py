"""A raw dataset on disk -> numbered shards of samples, and a quarantine file with what could not become a sample.

    OUT/SOURCE-00000.tar, SOURCE-00001.tar …   the same annotations and images give the same names and bytes
    OUT/quarantine/SOURCE.jsonl                absent where nothing was quarantined

Rows in = written + quarantined. Shards get their final names only when the whole source has been read, so that a killed
ingest leaves nothing that a build could mistake for a dataset. One process reads one source from start to end; run
several sources side by side.

Image bytes go through as they are. Only their header is checked here: decoding every image would cost more than
everything else together, and what does not decode is quarantined by the job that decodes it anyway.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.ledger import OutputLayout, write_quarantine
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.shards import write_shard
from polite_flamingo.sources import SOURCES, Row, SourceError, SourceOptions

MAX_SHARD_BYTES = 512 << 20
"""A shard is a block in a worker's memory: with large images it is closed before it has all its samples."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read and where to write.

    Attributes:
        source: a name in `SOURCES`.
        options: where the source's files lie.
        out: the folder of the shards; sources may share one.
        samples_per_shard: a shard is the unit of resume, so an interrupted build repeats at most this much a worker.
        fresh: replace the shards that the same source left in `out`.
    """

    source: str
    options: SourceOptions
    out: Path
    samples_per_shard: int = 1000
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"no source is called {self.source!r}; there are: {', '.join(SOURCES)}")
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, not {self.samples_per_shard}")
        known = SOURCES[self.source].extra
        for name in self.options.extra:
            if name not in known:
                raise ValueError(f"{self.source} knows no extra {name!r}; it knows: {', '.join(known) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What came of it."""

    rows_in: int
    written: int
    shards: tuple[Path, ...]
    quarantine: Path | None
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def quarantined(self) -> int:
        """Rows that did not become samples."""
        return sum(self.reasons.values())

    def __post_init__(self) -> None:
        assert self.rows_in == self.written + self.quarantined, self


def ingest(config: IngestConfig, watch: Callable[[Iterator[Row]], Iterable[Row]] = lambda rows: rows) -> Ingested:
    """Read the source and write its shards.

    Args:
        config: what and where.
        watch: sees every row go by, and hands it on: a place for a progress bar.

    Raises:
        SourceError: an annotation file as a whole is unusable, or the folder holds shards of this source.
    """
    started = time.monotonic()
    present = _shards_of(config)
    if present and not config.fresh:
        raise SourceError(f"{present[0]} is there already: pass --fresh to replace the shards of this source")
    _sweep(config)

    try:
        rows_in, staged, quarantined = _read(config, watch)
    except BaseException:
        _sweep(config)
        raise
    quarantine = OutputLayout(root=config.out).quarantine(config.source)
    for old in present:
        old.unlink()
    quarantine.unlink(missing_ok=True)
    write_quarantine(quarantine, quarantined)
    return Ingested(
        rows_in=rows_in,
        written=sum(staged.values()),
        shards=tuple(path.rename(path.with_name(path.name.removesuffix(_STAGED))) for path in staged),
        quarantine=quarantine if quarantined else None,
        reasons=dict(Counter(row.reason for row in quarantined).most_common()),
        seconds=time.monotonic() - started,
    )


_STAGED = ".tmp-staged"
"""Ends the name of a finished shard of an unfinished ingest; `ledger.shard_names` does not see it."""


def _read(
    config: IngestConfig, watch: Callable[[Iterator[Row]], Iterable[Row]]
) -> tuple[int, dict[Path, int], list[Quarantined]]:
    """Stage every shard; return how many rows were read, how many samples each shard holds, and what is quarantined."""
    rows_in = 0
    staged: dict[Path, int] = {}
    quarantined: list[Quarantined] = []
    batch: list[Sample] = []
    size = 0

    def close() -> None:
        path = config.out / f"{config.source}-{len(staged):05d}.tar{_STAGED}"
        write_shard(path, batch)
        staged[path] = len(batch)

    for row in watch(SOURCES[config.source].read(config.options)):
        rows_in += 1
        if isinstance(row, Quarantined):
            quarantined.append(row)
            continue
        batch.append(row)
        size += sum(len(image.data) for image in row.images)
        if len(batch) >= config.samples_per_shard or size >= MAX_SHARD_BYTES:
            close()
            batch, size = [], 0
    if batch:
        close()
    return rows_in, staged, quarantined


def _shards_of(config: IngestConfig) -> list[Path]:
    return sorted(config.out.glob(f"{config.source}-[0-9][0-9][0-9][0-9][0-9].tar"))


def _sweep(config: IngestConfig) -> None:
    """Remove what a killed ingest of this source left."""
    for stale in config.out.glob(f"{config.source}-[0-9][0-9][0-9][0-9][0-9].tar.tmp-*"):
        stale.unlink()
