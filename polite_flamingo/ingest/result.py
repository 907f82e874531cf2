"""An ingest on disk: its configuration, its result, and whether the result still matches the configuration.

The steps are in `ingest.py`. A finished ingest is recognised by a fingerprint of everything that decides what its
shards hold. Nothing here reads a dataset or writes a shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from polite_flamingo.images.decoding import EXTENSIONS
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.discovery import UNFINISHED, own_output
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.remote_path import RemotePath, version_of, walk
from polite_flamingo.storage.visibility import refuse_broken_mount

FORMAT = 1
"""Format of the work in progress; work in another format is discarded."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read and where to write.

    Attributes:
        source: a name in `SOURCES`.
        options: where the source's files lie.
        out: the folder of the shards; sources may share one.
        name: the name of the shards, and of the dataset if the source is for own data; "" takes the source's.
        samples_per_shard: rows per shard, the unit of resume: an interrupted build repeats at most this per worker.
        seed: the seed of the sampling.
        threads: images read at once by one worker; 0 decides by how long the first ones take.
        fresh: replace the shards that the same name has in `out`.
    """

    source: str
    options: SourceOptions
    out: Path | Location
    name: str = ""
    samples_per_shard: int = 1000
    seed: int = 0
    threads: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"no source is called {self.source!r}; there are: {', '.join(SOURCES)}")
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, not {self.samples_per_shard}")
        if self.threads < 0:
            raise ValueError(f"threads must be at least 1, or 0 to choose automatically, not {self.threads}")
        if self.name and not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"name {self.name!r} becomes part of file names: use letters, digits, '_' and '-'")
        if self.options.columns and not SOURCES[self.source].columns:
            raise ValueError(f"{self.source} is not a table and takes no columns")
        known = SOURCES[self.source].extra
        for name in self.options.extra:
            if name not in known:
                raise ValueError(f"{self.source} has no extra {name!r}; its extras: {', '.join(known) or 'none'}")

    @property
    def located(self) -> IngestConfig:
        """Return this configuration with absolute paths, since workers have other working directories."""
        images = self.options.images
        options = dataclasses.replace(
            self.options,
            annotations=tuple(path.absolute() for path in self.options.annotations),
            images=None if images is None else images.absolute(),
        )
        return dataclasses.replace(self, options=options, out=self.place.absolute())

    @property
    def shard_name(self) -> str:
        """The prefix of the shards' names."""
        return self.name or self.source

    @property
    def read_options(self) -> SourceOptions:
        """The options that the source reads."""
        own = self.name if SOURCES[self.source].use in ("other", "own data") else ""
        return dataclasses.replace(self.options, dataset=own)

    @property
    def place(self) -> Location:
        """The folder of the shards."""
        return location(self.out)

    @property
    def work(self) -> Location:
        """The folder of work in progress."""
        return self.place / "ingest" / self.shard_name

    @property
    def unfinished(self) -> Location:
        """The file that is there while the shards of this name are being built: nobody must read them."""
        return self.work / UNFINISHED

    @property
    def result(self) -> Location:
        """The file with the result of the ingest."""
        return self.place / "ingest" / f"{self.shard_name}.json"

    @property
    def quarantine(self) -> Location:
        """The quarantine file."""
        return self.place / "quarantine" / f"{self.shard_name}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The result of an ingest."""

    name: str
    rows_in: int
    written: int
    left_out: int
    shards: tuple[Location, ...]
    quarantine: Location | None
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def quarantined(self) -> int:
        """Rows that did not become samples."""
        return sum(self.reasons.values())

    def __post_init__(self) -> None:
        assert self.rows_in == self.written + self.quarantined + self.left_out, self


def is_finished(config: IngestConfig, count: int | None) -> bool:
    """Whether `out` holds the shards of this very input.

    Raises:
        SourceError: it holds shards of this name that were made from something else, and `fresh` is not set.
    """
    if config.unfinished.exists() or (config.work / "gathered.json").exists():
        return False
    found = _result(config)
    present = {place.name for place in shards_of(config)}
    if found.get("fingerprint") == fingerprint(config, count) and present == set(found["shards"]):
        return True
    refuse_to_replace(config)
    return False


def refuse_to_replace(config: IngestConfig) -> None:
    """Raise `SourceError` if `out` has shards of this name and `fresh` is not set; unfinished ones may be replaced."""
    present = shards_of(config)
    if present and not config.fresh and not config.unfinished.exists():
        raise SourceError(
            f"{present[0]} already exists, made from another input: pass --fresh to replace the shards of this name, "
            "or --name NAME to keep both"
        )


def read_result(config: IngestConfig) -> Ingested:
    """Read the result of a finished ingest."""
    found = _result(config)
    return Ingested(
        name=config.shard_name,
        shards=tuple(config.place / name for name in found["shards"]),
        quarantine=config.quarantine if config.quarantine.exists() else None,
        notes=found.get("notes", {}),
        **{name: found[name] for name in ("rows_in", "written", "left_out", "reasons", "seconds")},
    )


def fingerprint(config: IngestConfig, count: int | None) -> str:
    """Hash everything that decides what the shards hold, as far as possible without reading whole files."""
    options = config.options
    named = [*options.annotations, *filter(None, [options.images])]
    own = set(map(str, shards_of(config)))  # in the folder before the result that lists them
    inside = (path for path in chain.from_iterable(map(_inside, options.annotations)) if str(path) not in own)
    files = [[str(path), *_stamp(path)] for path in (*named, *inside)]
    parts = [
        FORMAT, config.source, config.shard_name, config.samples_per_shard, config.seed, count, files, options.split,
        sorted(options.columns.items()), sorted(options.extra.items()), sorted(options.download_from),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def sampling_rank(seed: int, key: str) -> int:
    """Return a number from 0 to 2^64 - 1 that depends only on seed and key; sampling takes the smallest."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big")


def shards_of(config: IngestConfig) -> list[Location]:
    """List the shards of this name."""
    form = re.compile(rf"{re.escape(config.shard_name)}-\d{{5}}(-[^/]*)?\.tar")
    folder = config.place.local
    names = config.place.names() if folder is None else os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
    return [config.place / name for name in sorted(names) if form.fullmatch(name)]


def _inside(folder: Path) -> list[Path]:
    """List the files and folders below a folder of annotations, without pictures; nothing for a file.

    What a run of this project wrote there is left out; otherwise an ingest would take its own shards for new input.
    """
    found: list[Path] = []
    if not isinstance(folder, RemotePath) or not folder.is_file():
        for at, folders, names in walk(folder):
            written = own_output(at) if {"ingest", "manifests"} & {*folders} else set()
            folders[:] = [name for name in folders if name not in written]
            there = (name for name in names if name not in written and Path(name).suffix[1:].lower() not in EXTENSIONS)
            found += [at, *(at / name for name in there)]
    return sorted(found)


def _stamp(path: Path) -> tuple[int, int | str]:
    """Return size and modification time or ETag; zeros for what is missing (its reader says so) or is our output."""
    try:
        found = path.stat()
    except OSError as error:
        refuse_broken_mount(path, error)
        return (0, 0)
    if path.is_dir():
        return (0, 0 if own_output(path) else found.st_mtime_ns)
    return (found.st_size, version_of(path))


def _result(config: IngestConfig) -> dict[str, Any]:
    return _read(config.result) or {}


def _read(place: Location) -> dict[str, Any] | None:
    """Read a JSON object; None if there is none."""
    try:
        found: dict[str, Any] = json.loads(place.read_text())
    except FileNotFoundError:
        return None
    return found


def gathered(config: IngestConfig) -> dict[str, Any] | None:
    """Return {rows_in, records, notes} of this input if it has been gathered, now or by a finished ingest."""
    for place in (config.work / "gathered.json", config.result):
        found = _read(place)
        if found is not None and found["gathered"] == fingerprint(config, None):
            return found
    return None
