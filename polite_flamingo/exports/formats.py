"""Write kept samples in a format, in files of bounded size, holding a few samples at a time.

    parquet     data/NNNNN.parquet   one row per sample with its pictures: `datasets.load_dataset(FOLDER)`
    webdataset  data/*.tar           KEY.json, KEY.0.jpg …
    llava       llava.json           one list of records, as LLaVA's trainer reads it; images/
    sharegpt    data/NNNNN.jsonl     messages and images, with dataset_info.json for LLaMA-Factory; images/
    openai      data/NNNNN.jsonl     messages with pictures as data URLs, or as paths of images/
    pairs       data/NNNNN.parquet   polite against raw: prompt, chosen, rejected, images, for TRL

A selection writes Parquet, WebDataset and LLaVA's list by itself, with the same functions (`storage/*_export*.py`).
"""

from __future__ import annotations

import tarfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Literal

import pyarrow

from polite_flamingo.conversations import polite_turns
from polite_flamingo.exports.records import openai_record, pairs, picture_url, same_text, sharegpt_record
from polite_flamingo.exports.rolling import Rolling
from polite_flamingo.images.digest import file_name
from polite_flamingo.sample import Sample
from polite_flamingo.storage.json_exports import JsonArray, export_images, json_line, llava_record
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.parquet_export import (
    IMAGES,
    SCHEMA,
    TEXT,
    groups,
    images_of,
    parquet_writer,
    row_of,
    schema_of,
)
from polite_flamingo.storage.shards import add_samples, opened_tar

Format = Literal["parquet", "webdataset", "llava", "sharegpt", "openai", "pairs"]

MOST_PICTURES = 999
"""Samples with more pictures share the name of a tar, not the tar."""


class Export(ABC):
    """Writes samples into a folder; a context manager, at whose end the last files are there.

    Attributes:
        records: records written.
        samples: samples of which a record was written.
        left_out: why no record was written of a sample -> number of samples.
        unmarked: responses that are only context, in a format that cannot say so.
        images: folders of image files written.
    """

    def __init__(self, folder: Location, limit: int):
        """Open nothing yet. Args: folder: of the export. limit: bytes of a file, roughly."""
        self.folder, self.limit = folder, limit
        self.records = self.samples = self.unmarked = 0
        self.left_out = Counter[str]()
        self.images: list[str] = []
        self._files = ExitStack()

    @abstractmethod
    def add(self, samples: Sequence[Sample]) -> None:
        """Write the samples of one shard, in order."""

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, traceback)

    def _written(self, samples: Sequence[Sample], records: int | None = None) -> None:
        self.samples += len(samples)
        self.records += len(samples) if records is None else records

    def _image_files(self, samples: Sequence[Sample]) -> list[list[str]]:
        """Write the images of a shard into a folder of its own; return the paths of each sample's images."""
        name = f"{len(self.images):05d}"
        export_images(samples, out=self.folder, name=name)
        self.images.append(f"images/{name}")
        return [[f"images/{name}/{file_name(image)}" for image in sample.images] for sample in samples]

    def _count_context(self, samples: Sequence[Sample]) -> None:
        self.unmarked += sum(turn.rewritten is None for sample in samples for turn in polite_turns(sample))


class ParquetExport(Export):
    """`parquet`."""

    schema = SCHEMA

    def __init__(self, folder: Location, limit: int):
        super().__init__(folder, limit)
        opened = partial(parquet_writer, schema=self.schema)
        self._rolling = self._files.enter_context(Rolling(partial(_numbered, folder, "parquet"), opened, limit))

    def add(self, samples: Sequence[Sample]) -> None:
        """Write rows."""
        for group in groups(samples):
            self._write([row_of(sample) for sample in group])
        self._written(samples)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        table = pyarrow.Table.from_pylist(rows, self.schema)
        self._rolling.room(table.nbytes).write_table(table)


MESSAGES: list[dict[str, Any]] = [{"role": TEXT, "content": [{"type": TEXT, "text": TEXT}]}]
"""The column of a conversation whose pictures are parts."""


class PairsExport(ParquetExport):
    """`pairs`."""

    schema = schema_of(
        {
            "key": TEXT,
            "prompt": MESSAGES,
            "chosen": MESSAGES,
            "rejected": MESSAGES,
            "images": IMAGES,
        }
    )

    def add(self, samples: Sequence[Sample]) -> None:
        """Write pairs; samples whose polite texts are all equal to the annotations have none."""
        for group in groups(samples):
            rows = []
            for sample in group:
                found = [
                    {"key": sample.key, **pair, "images": images_of(sample)[:shown]} for pair, shown in pairs(sample)
                ]
                if found:
                    self._written([sample], len(found))
                    rows += found
                else:
                    same = any(same_text(turn) for turn in polite_turns(sample))
                    self.left_out["the polite text is the annotation" if same else "no polite text"] += 1
            if rows:
                self._write(rows)


class WebDatasetExport(Export):
    """`webdataset`: rows of a tar have as many pictures; tars with more of them come first by name."""

    def __init__(self, folder: Location, limit: int):
        super().__init__(folder, limit)
        self._rolling: dict[int, Rolling[tarfile.TarFile]] = {}

    def add(self, samples: Sequence[Sample]) -> None:
        """Write members of tars."""
        for sample in samples:
            number = len(sample.images)
            if number not in self._rolling:
                rolling = Rolling(partial(_tar, self.folder, number), opened_tar, self.limit)
                self._rolling[number] = self._files.enter_context(rolling)
            tar = self._rolling[number].room(sum(len(image.data) for image in sample.images) + 4096)
            add_samples(tar, [sample], sample.key, uniform=True)
        self._written(samples)


class LlavaExport(Export):
    """`llava`."""

    def __init__(self, folder: Location, limit: int):
        super().__init__(folder, limit)
        self._array = JsonArray(self._files.enter_context((folder / "llava.json").writer()))

    def add(self, samples: Sequence[Sample]) -> None:
        """Write images, and records that name them."""
        paths = self._image_files(samples)
        self._array.add("".join(json_line(llava_record(*one)) for one in zip(samples, paths, strict=True)))
        self._count_context(samples)
        self._written(samples)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._array.end()
        super().__exit__(kind, error, traceback)


class JsonlExport(Export):
    """Formats of one JSON record per line."""

    def __init__(self, folder: Location, limit: int):
        super().__init__(folder, limit)
        opened: Any = nullcontext[BinaryIO]
        rolling: Rolling[BinaryIO] = Rolling(partial(_numbered, folder, "jsonl"), opened, limit)
        self._rolling = self._files.enter_context(rolling)

    @abstractmethod
    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        """Yield a record of each sample."""

    def add(self, samples: Sequence[Sample]) -> None:
        """Write lines."""
        for record in self._records(samples):
            line = json_line(record).encode()
            self._rolling.room(len(line)).write(line)
        self._written(samples)


class SharegptExport(JsonlExport):
    """`sharegpt`."""

    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        self._count_context(samples)
        return map(sharegpt_record, samples, self._image_files(samples))


class OpenaiExport(JsonlExport):
    """`openai`, with pictures in the records."""

    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        return (openai_record(sample, [picture_url(image) for image in sample.images]) for sample in samples)


class OpenaiPathsExport(JsonlExport):
    """`openai`, with pictures as files."""

    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        return map(openai_record, samples, self._image_files(samples))


def _numbered(folder: Location, suffix: str, number: int) -> Location:
    return folder / "data" / f"{number:05d}.{suffix}"


def _tar(folder: Location, pictures: int, number: int) -> Location:
    rank = MOST_PICTURES - min(pictures, MOST_PICTURES)
    return folder / "data" / f"{rank:03d}-pictures-{pictures}-{number:05d}.tar"


EXPORTS: dict[Format, type[Export]] = {
    "parquet": ParquetExport,
    "webdataset": WebDatasetExport,
    "llava": LlavaExport,
    "sharegpt": SharegptExport,
    "openai": OpenaiExport,
    "pairs": PairsExport,
}
