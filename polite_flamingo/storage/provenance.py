"""Find the ingests that made a build's shards, so that its counts begin at the annotation files.

    annotation records = quarantined at ingest + left out by sampling + not read here + rows of the build's shards

An ingest leaves its result beside its shards (`ingest/result.py`: FOLDER/ingest/NAME.json beside FOLDER/NAME-00000.tar
and so on). A build notes the results of its input (`ingests_of`); a selection joins them with the rows that the
manifests count (`annotations_of`). "Not read here" are the rows of an ingest's shards that are not part of the build or
could not be read. Counts of shards without such a result begin at the shards.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.storage.location import Location, location

_SHARD = re.compile(r"(?P<name>.+)-\d{5,}(-\d+)?\.tar")


@dataclass(frozen=True, kw_only=True)
class IngestCounts:
    """One finished ingest: `rows_in == written + left_out + all of reasons`."""

    folder: str
    name: str
    rows_in: int
    written: int
    left_out: int
    reasons: Mapping[str, int]

    @property
    def where(self) -> tuple[str, str]:
        """The folder and name, which identify an ingest."""
        return self.folder, self.name


def ingests_of(shards: Iterable[Location]) -> list[IngestCounts]:
    """Return the ingests whose results are beside these shards, each once; a folder's results are listed once.

    Raises:
        ValueError: a result cannot be read; the message says what to do.
    """
    found: dict[tuple[str, str], IngestCounts] = {}
    there: dict[str, list[str]] = {}
    for folder, name in sorted({where for place in shards if (where := _ingest_of(place))}):
        file = location(folder) / "ingest" / f"{name}.json"
        if folder not in there:
            there[folder] = file.parent.names()
        if file.name not in there[folder]:
            continue
        try:
            record = json.loads(file.read_text())
            counts = {field: int(record[field]) for field in ("rows_in", "written", "left_out")}
            reasons = {str(reason): int(count) for reason, count in record["reasons"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is not the result of an ingest ({type(error).__name__}: {error}); ingest again, or delete it "
                "to count rows from the shards on"
            ) from None
        found[folder, name] = IngestCounts(folder=folder, name=name, reasons=reasons, **counts)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What became of annotation records before a build read them.

    Attributes:
        names: names of the ingests.
        rows: number of all annotation records.
        quarantined: number of records quarantined at ingest, by reason.
        left_out: number of records left out by sampling.
        not_read: number of records in shards that are not part of the build or could not be read.
        rows_in: number of records that are rows of the build.
    """

    names: tuple[str, ...] = ()
    rows: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0
    not_read: int = 0
    rows_in: int = 0

    def __post_init__(self) -> None:
        assert self.rows == self.before + self.rows_in, self

    @property
    def before(self) -> int:
        """Number of records that never reached the build."""
        return sum(self.quarantined.values()) + self.left_out + self.not_read

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {**dataclasses.asdict(self), "names": list(self.names)}


NOTHING = Annotations()
"""Nothing is known about annotation records: counts begin at the shards."""


def annotations_of(ingests: Iterable[IngestCounts], rows: Mapping[Location, int]) -> Annotations:
    """Join ingests with what a build counted.

    A result with fewer rows than its shards have is not theirs (the folder was ingested again since) and is ignored.

    Args:
        ingests: the ingests that the build noted.
        rows: number of rows of each input shard that was read.
    """
    read: Counter[tuple[str, str]] = Counter()
    for place, count in rows.items():
        if where := _ingest_of(place):
            read[where] += count
    known = [ingest for ingest in ingests if ingest.written >= read[ingest.where]]
    quarantined: Counter[str] = Counter()
    for ingest in known:
        quarantined.update(ingest.reasons)
    return Annotations(
        names=tuple(sorted({ingest.name for ingest in known})),
        rows=sum(ingest.rows_in for ingest in known),
        quarantined=dict(quarantined.most_common()),
        left_out=sum(ingest.left_out for ingest in known),
        not_read=sum(ingest.written - read[ingest.where] for ingest in known),
        rows_in=sum(read[ingest.where] for ingest in known),
    )


def _ingest_of(shard: Location) -> tuple[str, str] | None:
    """Return the (absolute) folder and the name of the ingest that wrote a shard, judging by the shard's name."""
    match = _SHARD.fullmatch(shard.name)
    return (str(shard.absolute().parent), match["name"]) if match else None
