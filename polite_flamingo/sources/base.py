"""What a source adapter is, and the loop that all of them share.

An adapter is a generator: for each annotation record one `Sample` or one `Quarantined`, never both and never nothing.
It raises `SourceError` for an annotation file that cannot be read as a whole, and nothing else. How files are read
without trusting them is in `reading.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Quarantined, Reason, Sample, make_key
from polite_flamingo.sources.reading import SourceError, text

Row = Sample | Quarantined


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where a raw dataset lies on disk.

    Attributes:
        annotations: the files (or folders) that the source's `files` asks for, in any order.
        images: the folder that image names are relative to; the dataset's own sub-folders are searched too.
        split: the split in the keys of datasets whose records do not name one ("" there means "train"). Of datasets
            whose records do, only this split is read ("" reads all).
        extra: what only one source needs, by name; see `Source.extra`.
    """

    annotations: tuple[Path, ...]
    images: Path | None = None
    split: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset that can be read.

    Attributes:
        name: the key in `SOURCES`, the `dataset` of its samples.
        task: one of `sample.TASKS`.
        category: the paper's: captioning, classification, change captioning, VQA with rationale, VQA.
        files: one line that says which annotation files to pass and how its images are named.
        read: options -> rows; a generator that raises nothing but `SourceError`.
        licence: of the annotations, where the dataset states one.
        extra: the names that it knows in `SourceOptions.extra`, each with one line of help.
    """

    name: str
    task: str
    category: str
    files: str
    read: Callable[[SourceOptions], Iterator[Row]]
    licence: str = "not stated"
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where records come from: `part` names the list inside the file ("" where the file is the list)."""

    file: str
    part: str = ""

    def quarantined(self, number: int, reason: Reason, detail: str, key: str = "") -> Quarantined:
        """The row of record `number` (from 0), which cannot become a sample."""
        return Quarantined(
            key=key, shard=self.file, index=number, reason=reason, detail=detail, payload=self.payload(number)
        )

    def payload(self, number: int) -> str:
        """`captions.json#annotations[12]`, or `P0001.txt` for a file that is one record."""
        return f"{self.file}#{self.part}[{number}]" if self.part else self.file


def rows_of(
    name: str,
    records: Iterable[tuple[Place, int, Any]],
    options: SourceOptions,
    *,
    identify: Callable[[Any], object],
    build: Callable[[str, Any], Sample],
) -> Iterator[Row]:
    """Turn each record into a sample, or into a quarantined row where `identify` or `build` raise `BadSample`.

    `identify(record)` is the original id; `build(key, record)` the sample. The sample's `meta["source"]` is the
    record's place. A second record with the id of an earlier one is a `duplicate_key`.
    """
    seen: set[str] = set()
    for place, number, record in records:
        key = ""
        try:
            key = make_key(name, split_of(record, options), identify(record))
            if key in seen:
                raise BadSample("duplicate_key", f"{key} occurs before in these annotations; the first is kept")
            seen.add(key)
            sample = build(key, record)
            meta = {**sample.meta, "source": place.payload(number)}
            row: Row = dataclasses.replace(sample, meta=meta).validate()
        except BadSample as bad:
            row = place.quarantined(number, bad.reason, bad.detail, key)
        yield row


def split_of(record: Any, options: SourceOptions) -> str:
    """The record's own split where it names one, else the one of the options."""
    if isinstance(record, dict) and record.get("split"):
        return text(record, "split")
    return options.split or "train"


def of_split(records: Iterable[tuple[Place, int, Any]], options: SourceOptions) -> list[tuple[Place, int, Any]]:
    """The records of `options.split`, and those that name none. Raises `SourceError` where all are of other splits."""
    records = list(records)
    if not options.split:
        return records
    kept = []
    others = set()
    for item in records:
        own = item[2].get("split") if isinstance(item[2], dict) else None
        if own is None or own == options.split:
            kept.append(item)
        else:
            others.add(str(own))
    if records and not kept:
        named = ", ".join(sorted(others))
        raise SourceError(f"{records[0][0].file} holds no record of split {options.split!r}, only of: {named[:200]}")
    return kept


def numbered(place: Place, records: Iterable[Any]) -> Iterator[tuple[Place, int, Any]]:
    """Records with their places."""
    for number, record in enumerate(records):
        yield place, number, record
