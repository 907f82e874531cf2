"""The `Source` interface, and the two steps that all sources share.

    keyed_records   annotation files -> records, streamed: joined, keyed, of JSON types only
    make_sample     a record -> its sample; needs only the images, so any process may do it, in any order

A source provides `records` (streams the annotation files), `identify` and `build`. Each annotation record becomes
exactly one `Sample` or one `Quarantined`. A source raises `SourceError` for an annotation file that is unusable as a
whole, and nothing else. How to read files without trusting them: `streaming.py` and `field_checks.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from polite_flamingo.sample import TASKS, BadSample, Image, Quarantined, Reason, Sample, Turn, make_key
from polite_flamingo.sources.reading.download import check_hosts, fetch
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import text_field
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.reading.scratch import Scratch

Row = Sample | Quarantined
Word = TypeVar("Word", bound=str)

Evidence = Literal["real file", "transcribed", "documentation", "own format"]
"""How the format is known: an excerpt of a published file; a real record copied by hand from code or documentation
(its wrapper rebuilt); documentation only; a format of this project."""

Use = Literal["PF-1M", "evaluation", "text", "dialogue", "preference", "other", "own data"]
"""What a dataset is for: rewriting, measuring, text-only tuning, LLaVA's dialogues, preference alignment, or any use.

"other" is a published dataset, "own data" the user's.
"""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where a raw dataset lies on disk.

    Attributes:
        annotations: the files (or folders) that the source's `files` asks for, in any order.
        images: the folder that image names are relative to; the dataset's own sub-folders are searched too.
        split: the split in the keys of datasets whose records do not name one ("" there means "train"). Of datasets
            whose records do, only this split is read ("" reads all).
        columns: for tables, what each column is (`table.py`).
        extra: what only one source needs, by name; see `Source.extra`.
        dataset: what own data is called in keys and samples; "" takes the source's name.
        download_from: hosts that images may be fetched from (`download.fetch`); none: nothing is ever fetched.
    """

    annotations: tuple[Path, ...]
    images: Path | None = None
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    download_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What `build` may use besides the record."""

    options: SourceOptions
    images: ImageFolder

    def download(self, url: object) -> Image:
        """Download the image at `url`. Raises `BadSample`, for example if the user has not named its host."""
        return fetch(url, self.options.download_from)

    def local_or_downloaded(self, url: object, *names: str) -> Image:
        """Read the first of `names` in the image folder; without any, download `url` if the user has named hosts."""
        try:
            return self.images.read(*names)[0]
        except BadSample as bad:
            if bad.reason != "missing_image":
                raise
            if not self.options.download_from:
                what = f"{bad.detail}, and no host is named to download it from (--download)"
                raise BadSample("missing_image", what) from None
            return self.download(url)


Records = Iterator[tuple["Place", int, Any]]
"""(place, number, record) of each annotation record; the record is any JSON value, or a `BadSample` in its place."""

Reader = Callable[[SourceOptions, Scratch], Records]
Builder = Callable[[str, Any, Context], Sample]
"""(key, record, context) -> sample. Raises `BadSample`."""

CATEGORIES = {
    "captioning": "captioning",
    "classification": "classification",
    "change_captioning": "change captioning",
    "vqa_rationale": "VQA with rationale",
    "vqa": "VQA",
    "dialogue": "dialogue",
    "text": "text",
}
"""Task -> the paper's name for it, in the order of its table."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset that can be read.

    Attributes:
        name: the key in `SOURCES`, the `dataset` of its samples.
        title: what its authors call it.
        use: what it is for.
        task: one of `sample.TASKS`.
        files: one line that says which annotation files to pass and how its images are named.
        published: where its authors publish it.
        licence: the annotations' licence, if the dataset states one.
        evidence: how the format is known.
        adopted: how many samples PF-1M kept of it (arXiv 2307.01003, section 4), or of its whole group.
        group: the name under which the paper counts it together with others ("" if it is counted alone).
        records: streams (place, number, record) of the annotation files; a record is any JSON value, or a `BadSample`
            in its place. It has everything that `build` needs from the files.
        identify: the original id of a record. Raises `BadSample`.
        build: (key, record, context) -> sample. Raises `BadSample`.
        split_in_record: whether records name their split in a field `split`.
        images: whether an image folder must be given.
        extra: the names that it knows in `SourceOptions.extra`, each with one line of help.
        columns: for tables, the fields that `SourceOptions.columns` can map to columns.
    """

    name: str
    title: str
    use: Use
    task: str
    files: str
    published: str
    evidence: Evidence
    records: Reader
    identify: Callable[[Any], object]
    build: Builder
    licence: str = "not stated"
    adopted: int | None = None
    group: str = ""
    split_in_record: bool = False
    images: Literal["needed", "optional", "none"] = "needed"
    extra: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """The paper's name for the source's task."""
        return CATEGORIES[self.task]

    def context(self, options: SourceOptions) -> Context:
        """Make the context for `build`. Raises `SourceError` if needed images are not there, or a host is invalid."""
        check_hosts(options.download_from)
        absent = options.images is None and (self.images == "optional" or options.download_from)
        if self.images == "none" or absent:
            return Context(options, ImageFolder(None))
        return Context(options, ImageFolder.of(options.images))

    def read(self, options: SourceOptions) -> Iterator[Row]:
        """Run both steps, record by record. Raises `SourceError`."""
        context = self.context(options)
        for row in keyed_records(self, options):
            yield row if isinstance(row, Quarantined) else make_sample(self, row, context)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where records come from: `part` names the list inside the file ("" if the file is the list).

    `split` is the split of all its records if the file's own name says it; it goes into the keys and is not kept.
    """

    file: str
    part: str = ""
    split: str = ""

    def quarantined(self, number: int, reason: Reason, detail: str, key: str = "") -> Quarantined:
        """Make the row of record `number` (from 0), which cannot become a sample."""
        return Quarantined(
            key=key, shard=self.file, index=number, reason=reason, detail=detail, payload=self.payload(number)
        )

    def payload(self, number: int) -> str:
        """`captions.json#annotations[12]`, or `P0001.txt` for a file that is one record."""
        return f"{self.file}#{self.part}[{number}]" if self.part else self.file


@dataclass(frozen=True, kw_only=True)
class Record:
    """An annotation record with its key and its place, on its way to a sample."""

    key: str
    place: Place
    number: int
    data: Any

    def to_json(self) -> list[Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return [self.key, self.place.file, self.place.part, self.number, self.data]

    @staticmethod
    def from_json(values: list[Any]) -> Record:
        """Convert back what `to_json` returned."""
        key, file, part, number, data = values
        return Record(key=key, place=Place(file=file, part=part), number=number, data=data)


def keyed_records(
    source: Source, options: SourceOptions, scratch: Scratch | None = None
) -> Iterator[Record | Quarantined]:
    """Yield the records of a source in order, with keys; one whose id is unusable, or repeated, is quarantined.

    Args:
        source: the source.
        options: what to read.
        scratch: collects the notes (`Scratch.notes`); a new one by default.

    Raises:
        SourceError: a file as a whole is unusable, or none of its records is of the wanted split.
    """
    scratch = Scratch() if scratch is None else scratch
    others: set[str] = set()
    place = None
    kept = False
    for place, number, data in source.records(options, scratch):
        key = ""
        try:
            if isinstance(data, BadSample):
                raise data
            split = split_of(data if source.split_in_record else None, options, place.split)
            if options.split and split != options.split:
                others.add(split)
                continue
            key = make_key(options.dataset or source.name, split, source.identify(data))
            if not scratch.is_new(key):
                raise BadSample("duplicate_key", f"{key} occurs earlier in these annotations; the first is kept")
            row: Record | Quarantined = Record(key=key, place=place, number=number, data=data)
        except BadSample as bad:
            row = place.quarantined(number, bad.reason, bad.detail, key)
        kept = True
        yield row
    if others and not kept:
        assert place is not None
        named = ", ".join(sorted(others))
        raise SourceError(f"{place.file} holds no record of split {options.split!r}, only of: {named[:200]}")


def extra_choice(options: SourceOptions, name: str, *allowed: Word) -> Word:
    """Return the extra `name`; the first of `allowed` if it is not given. Raises `SourceError` for any other value."""
    chosen = options.extra.get(name, allowed[0])
    for word in allowed:
        if word == chosen:
            return word
    raise SourceError(f"extra {name}={chosen[:40]!r}: it must be one of {', '.join(allowed)}")


def extra_task(options: SourceOptions) -> str | None:
    """Return the extra `task`, which holds for all rows, if it is given. Raises `SourceError` for an unknown task."""
    task = options.extra.get("task")
    if task is not None and task not in TASKS:
        raise SourceError(f"--extra task={task[:40]!r} must be one of {', '.join(TASKS)}")
    return task


def split_of(record: Any, options: SourceOptions, of_file: str = "") -> str:
    """Return the record's own split if it names one, else its file's, else that of the options."""
    if isinstance(record, dict) and record.get("split"):
        return text_field(record, "split")
    return of_file or options.split or "train"


def make_sample(source: Source, record: Record, context: Context) -> Row:
    """Make the sample of a record, or the row that says why there is none. `meta["source"]` is the record's place."""
    try:
        sample = source.build(record.key, record.data, context)
        meta = {**sample.meta, "source": record.place.payload(record.number)}
        dataset = context.options.dataset or source.name
        return dataclasses.replace(sample, dataset=dataset, meta=meta).validate()
    except BadSample as bad:
        return record.place.quarantined(record.number, bad.reason, bad.detail, record.key)


def one_turn(
    key: str, task: str, instruction: str, response: str, images: Iterable[Image], meta: Mapping[str, Any]
) -> Sample:
    """Make the sample of a single exchange, without the name of its dataset, which `make_sample` adds."""
    turn = Turn(instruction=instruction, response=response)
    return Sample(key=key, dataset="", task=task, turns=(turn,), images=tuple(images), meta=meta)
