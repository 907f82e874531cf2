"""What every source adapter shares: its description, its options, and reading files it does not trust.

An adapter is a generator: annotation records in, one `Sample` or one `Quarantined` out for each. It raises
`SourceError` for an annotation file that cannot be read at all, and for nothing else. Adapters never unpickle, never
fetch a URL and never follow a name out of the image folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.sample import Quarantined, Sample

Row = Sample | Quarantined


class SourceError(ValueError):
    """An annotation file or folder as a whole is unusable; the message is one line: what, where, what to do."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where a raw dataset lies on disk.

    Attributes:
        annotations: the files (or folders) that the source's `files` asks for, in any order.
        images: the folder that image names are relative to; sub-folders with the dataset's own names are searched.
        split: goes into the keys; records that name another split are left to their own run (see each adapter).
        extra: what only one family needs, by name; see `Source.extra`.
    """

    annotations: tuple[Path, ...]
    images: Path | None = None
    split: str = "train"
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset that can be read.

    Attributes:
        name: the key in `SOURCES`, the `dataset` of its samples.
        task: one of `sample.TASKS`.
        category: the paper's: captioning, classification, change captioning, VQA with rationale, VQA.
        files: one line that says which annotation files to pass, and how its images are named.
        licence: of the annotations, where the dataset states one.
        read: options -> samples; a generator that raises nothing but `SourceError`.
        extra: the options of `SourceOptions.extra` that it knows, each with one line of help.
    """

    name: str
    task: str
    category: str
    files: str
    read: Callable[[SourceOptions], Iterator[Row]]
    licence: str = "not stated"
    extra: Mapping[str, str] = field(default_factory=dict)
