"""The files around the build of a bulk job: its lines become shards, and the build's output becomes the result files.

    WORK/in/00000.tar     samples, with their line and custom_id in `meta`
    WORK/invalid.jsonl    error lines for invalid requests
    WORK/profile.yaml     the server's models, filters and thresholds, and the pools of its profile
    WORK/out/             output of `build_pf1m`

WORK is a new folder in each attempt to write the inputs: images are fetched again, and may fail otherwise than before.
Each line ends in exactly one of the two result files, even if the build was stopped: a line that it did not reach is an
error that says why. Nothing here starts a process (`runner.py`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import yaml

from polite_flamingo.config import fill, to_yaml
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.sample import Sample, make_key
from polite_flamingo.storage.ledger import OutputLayout, read_manifest, read_quarantine, read_scored
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard, write_shard
from serving.batches.lines import Line, error_line, output_line, quarantine_error, read_lines
from serving.chat.images import ImageLoader
from serving.config import ServiceConfig
from serving.errors import ApiError
from serving.rewrite.rewriting import image_references, make_sample

SHARD_ROWS = 256
SHARD_BYTES = 64 << 20
"""Rows per shard: what a killed build loses, and the step in which progress is reported."""

_AT_ONCE = 16
"""Number of lines whose images are fetched at once."""


@dataclasses.dataclass
class JobError(Exception):
    """A job cannot start. Both fields are shown to the client."""

    code: str
    message: str


async def write_inputs(
    source: Location, work: Location, job: str, config: ServiceConfig, loader: ImageLoader
) -> tuple[int, int]:
    """Write the inputs of the build. Returns the number of lines and of invalid ones.

    Args:
        source: the uploaded file.
        work: an empty folder, WORK.
        job: the job's id.
        config: limits, and the models that the build runs.
        loader: loads images.

    Raises:
        JobError: the file was deleted, is empty, or has too many lines.
    """
    await asyncio.to_thread((work / "profile.yaml").put, profile_of(config))
    most = config.serving.batches.lines
    total = invalid = 0
    shards = _Shards(work / "in")
    try:
        file = await asyncio.to_thread(source.open)
    except FileNotFoundError:
        raise JobError("input_file_not_found", "the input file was deleted") from None
    with file, tempfile.TemporaryFile() as errors:
        lines = read_lines(file, config)
        while batch := await asyncio.to_thread(lambda: list(islice(lines, _AT_ONCE))):
            total += len(batch)
            if total > most:
                raise JobError("too_many_lines", f"a job may have {most} lines (serving.batches.lines)")
            samples = await asyncio.gather(*(_sample(line, config, loader) for line in batch))
            for line, sample in zip(batch, samples, strict=True):
                if isinstance(sample, Sample):
                    await asyncio.to_thread(shards.add, sample)
                else:
                    errors.write(error_line(job, line.number, line.custom_id, sample).encode())
                    invalid += 1
        await asyncio.to_thread(shards.close)
        await asyncio.to_thread(_copy, errors, work / "invalid.jsonl")
    if not total:
        raise JobError("empty_file", "the input file has no lines")
    return total, invalid


def _copy(file: BinaryIO, place: Location) -> None:
    file.seek(0)
    with place.writer() as copy:
        shutil.copyfileobj(file, copy)


def profile_of(config: ServiceConfig) -> str:
    """Return a profile, as YAML, with which `ray_jobs.build_pf1m` runs exactly the server's models."""
    return to_yaml({name: getattr(config, name) for name in ("rewriter", "scoring", "thresholds", "pools")})


def output_of(work: Location) -> OutputLayout:
    """Return the build's output folder."""
    return OutputLayout(root=work / "out")


def progress(work: Location, counted: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the numbers of lines that the build has rewritten and quarantined, according to its manifests.

    Args:
        work: the job's WORK.
        counted: shards that were counted before; updated.
    """
    layout = output_of(work)
    for name in layout.finished():
        if name not in counted:
            manifest = read_manifest(layout.manifest(name))
            counted[name] = (manifest.scored, manifest.quarantined)
    return sum(one[0] for one in counted.values()), sum(one[1] for one in counted.values())


def write_results(
    work: Location, job: str, config: ServiceConfig, output: BinaryIO, errors: BinaryIO, not_reached: ApiError | None
) -> tuple[int, int]:
    """Write both result files. Returns how many lines each has.

    Args:
        work: the job's WORK.
        job: its id.
        config: names the model.
        output: open for writing.
        errors: open for writing.
        not_reached: the error of lines that the build did not reach; None if it must have reached all.

    Raises:
        ValueError: the build's output is damaged.
    """
    thresholds = fill(Thresholds, yaml.safe_load((work / "profile.yaml").read_text())["thresholds"])
    name = config.serving.rewriter_name
    completed = failed = 0
    with (work / "invalid.jsonl").open() as invalid:
        for line in invalid:
            errors.write(line)
            failed += 1
    for sample, outcome in _outcomes(work):
        if isinstance(outcome, Sample):
            output.write(output_line(outcome, job, name, thresholds).encode())
            completed += 1
        else:
            error = outcome or not_reached
            if error is None:
                raise ValueError(f"line {sample.meta['line']} is missing in the output of a finished build")
            errors.write(error_line(job, sample.meta["line"], sample.meta["custom_id"], error).encode())
            failed += 1
    return completed, failed


def _outcomes(work: Location) -> Iterator[tuple[Sample, Sample | ApiError | None]]:
    """Yield every input sample and its result from the build; None if the build did not reach it."""
    layout = output_of(work)
    finished = set(layout.finished())
    for name in sorted((work / "in").names(".tar")):
        results: dict[str, Sample | ApiError] = {}
        if name in finished:
            results |= {sample.key: sample for sample in read_scored(layout, name)}
            results |= {row.key: quarantine_error(row) for row in read_quarantine(layout, name)}
        for sample in read_shard(work / "in" / f"{name}.tar"):
            if not isinstance(sample, Sample):
                raise ValueError(sample.detail)
            yield sample, results.get(sample.key)


class _Shards:
    """Collects samples and writes full shards."""

    def __init__(self, folder: Location):
        self._folder, self._count = folder, 0
        self._rows: list[Sample] = []
        self._bytes = 0

    def add(self, sample: Sample) -> None:
        self._rows.append(sample)
        self._bytes += sum(len(image.data) for image in sample.images)
        if len(self._rows) >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is left as a shard."""
        if self._rows:
            write_shard(self._folder / f"{self._count:05}.tar", self._rows)
            self._count, self._rows, self._bytes = self._count + 1, [], 0


async def _sample(line: Line, config: ServiceConfig, loader: ImageLoader) -> Sample | ApiError:
    if line.content is None:
        assert line.error is not None
        return line.error
    try:
        images = await loader.load(image_references(line.content, config.serving.limits, "body"))
        meta = {"line": line.number, "custom_id": line.custom_id}
        return make_sample(line.content, images, key=make_key("rewrite", "line", line.number), meta=meta)
    except ApiError as error:
        return error
