"""A mixture: several sources with their files, and how much to take from each.

    sampling: paper                 # all, ratio, counts, sqrt or paper
    margin: 1.2
    sources:
      vqa_v2_train:                 # names the shards; `source` is only needed if the name is not one
        source: vqa_v2
        annotations: [vqa/v2_OpenEnded_mscoco_train2014_questions.json, vqa/v2_mscoco_train2014_annotations.json]
        images: coco/train2014

Paths are relative to a root given at the start. From a source with N records, `sampling` takes:

    all      N
    ratio    `ratio` * N
    counts   `count`, at most N
    sqrt     of `total`, a share in proportion to the square root of N; what a source lacks goes to the others
    paper    `margin` times what PF-1M adopted of it (arXiv 2307.01003, section 4); sources that the paper counts
             together share that count in proportion to their sizes

An entry's own `count` or `ratio` overrides `sampling`. Records are sampled by a hash of seed and key, so a larger count
takes the same records and more.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polite_flamingo.config import ConfigError, fill, merged, read_yaml
from polite_flamingo.ingest.ingest import IngestConfig
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.remote_path import source_path
from polite_flamingo.storage.user_paths import is_address, user_path

Sampling = Literal["all", "ratio", "counts", "sqrt", "paper"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One source of a mixture.

    Attributes:
        annotations: files or folders, relative to the root.
        images: the image folder, relative to the root.
        source: a name in `SOURCES`; "" takes the entry's own name.
        split: as in `SourceOptions`.
        extra: as in `SourceOptions`.
        columns: as in `SourceOptions`.
        ratio: the share of its records to take, above 0 and at most 1.
        count: the number of records to take.
    """

    annotations: list[str]
    images: str = ""
    source: str = ""
    split: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    ratio: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and self.count is not None:
            raise ValueError("give 'ratio' or 'count', not both")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"'ratio' is a share of the records, above 0 and at most 1, not {self.ratio}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"'count' must be at least 1, not {self.count}")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sources and how to sample them; see the module.

    Attributes:
        sources: the entries by the name of their shards.
        sampling: how much to take of each.
        total: how many records `sqrt` takes in all.
        margin: for `paper`, a factor on the paper's counts, since the filters reject about one rewrite in six.
        seed: the seed of the sampling.
    """

    sources: dict[str, Entry]
    sampling: Sampling = "all"
    total: int | None = None
    margin: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("'sources' is empty: name at least one")
        if (self.sampling == "sqrt") != (self.total is not None):
            raise ValueError(
                "'total' is the number of records that 'sampling: sqrt' takes in all: give it with sqrt, and only then"
            )
        if not self.margin > 0:
            raise ValueError(f"'margin' must be above 0, not {self.margin}")
        for name, entry in self.sources.items():
            source = SOURCES.get(entry.source or name)
            free = entry.ratio is None and entry.count is None
            if source is not None and self.sampling == "paper" and source.adopted is None and free:
                raise ValueError(f"{name}: the paper has no count for {source.name}; give it a 'count' or a 'ratio'")
            if self.sampling in ("ratio", "counts") and free:
                wanted = self.sampling.removesuffix("s")
                raise ValueError(f"{name}: 'sampling: {self.sampling}' needs a {wanted!r} of each source")

    def configs(
        self, root: Path, out: Path | Location, *, download_from: tuple[str, ...] = (), **more: Any
    ) -> list[IngestConfig]:
        """One `IngestConfig` per source, in order. Raises `ValueError` naming the bad entry."""
        made = []
        for name, entry in self.sources.items():
            given = [user_path(path, f"{name}: annotations") for path in entry.annotations]
            options = SourceOptions(
                annotations=tuple(_below(root, path) for path in given),
                images=_below(root, user_path(entry.images, f"{name}: images")) if entry.images else None,
                split=entry.split,
                extra=entry.extra,
                columns=entry.columns,
                download_from=download_from,
            )
            source = entry.source or name
            try:
                made.append(IngestConfig(source=source, name=name, options=options, out=out, seed=self.seed, **more))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return made

    def counts(self, sizes: Sequence[int]) -> list[int | None]:
        """Return how many records to take from each source, given how many it has; None takes all."""
        named = dict(zip(self.sources, sizes, strict=True))
        wanted = {
            name: entry.count if entry.ratio is None else round(entry.ratio * named[name])
            for name, entry in self.sources.items()
        }
        free = {name: named[name] for name, count in wanted.items() if count is None}
        if self.sampling == "sqrt":
            assert self.total is not None
            rest = self.total - sum(count for count in wanted.values() if count is not None)
            wanted |= by_square_root(free, max(0, rest))
        elif self.sampling == "paper":
            wanted |= self._as_the_paper(free)
        return [count if count is None else min(count, named[name]) for name, count in wanted.items()]

    def without(self, names: Collection[str]) -> Mixture:
        """Return the mixture without the named sources. Raises `ValueError` if none is left."""
        return dataclasses.replace(self, sources={k: v for k, v in self.sources.items() if k not in names})

    def _as_the_paper(self, sizes: Mapping[str, int]) -> dict[str, int]:
        groups: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
        for name, size in sizes.items():
            source = SOURCES[self.sources[name].source or name]
            groups[source.group or source.name, source.adopted or 0][name] = size
        counts: dict[str, int] = {}
        for (_, adopted), members in groups.items():
            counts |= shares(members, round(adopted * self.margin))
        return counts


def _below(root: Path, path: str) -> Path:
    return source_path(path) if is_address(path) else root / path


def by_square_root(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` in proportion to the square roots of the sizes; what a small source lacks goes to the others."""
    left = dict(sizes)
    counts: dict[str, int] = {}
    while left:
        weights = sum(math.sqrt(size) for size in left.values())
        share = {name: total * math.sqrt(size) / weights if weights else 0.0 for name, size in left.items()}
        short = [name for name in left if share[name] >= left[name]]
        for name in short:
            counts[name] = left.pop(name)
            total -= counts[name]
        if not short:
            counts |= _rounded(share)
            break
    return {name: counts[name] for name in sizes}


def shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide `total` in proportion to the sizes; at most everything."""
    whole = sum(sizes.values())
    if total >= whole:
        return dict(sizes)
    return _rounded({name: total * size / whole for name, size in sizes.items()})


def _rounded(parts: Mapping[str, float]) -> dict[str, int]:
    """Round to whole numbers with the same sum: the largest remainders are rounded up."""
    whole = {name: math.floor(part) for name, part in parts.items()}
    missing = round(sum(parts.values())) - sum(whole.values())
    by_remainder = sorted(parts, key=lambda name: whole[name] - parts[name])
    return {name: count + (name in by_remainder[:missing]) for name, count in whole.items()}


def load_mixture(path: Path, **overrides: Any) -> Mixture:
    """Load a mixture from a YAML file; `overrides` replace fields of it (None leaves them).

    Raises:
        ValueError: the file is not a valid mixture; the message says where.
    """
    content = read_yaml(path)
    changes = {name: value for name, value in overrides.items() if value is not None}
    if changes.get("sampling", "sqrt") != "sqrt" and "total" not in changes:
        content.pop("total", None)
    try:
        return fill(Mixture, merged(content, changes))
    except ConfigError as error:
        raise SourceError(f"{path}: {error}") from None
