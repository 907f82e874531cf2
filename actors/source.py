"""Shards as a Ray Data source: one read task reads one shard into one block.

Ray's own WebDataset reader is not used: a truncated tar or a corrupt image kills the job, unordered members become rows
with missing fields, and its blocks cannot be resumed by shard. Here whatever is wrong with a shard becomes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from actors.rows import Block, Row
from polite_flamingo.faults.guard import with_provenance
from polite_flamingo.images.digest import digest
from polite_flamingo.sample import Sample
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard
from polite_flamingo.storage.visibility import FileState

SAMPLED_SHARDS = 1000


class ShardDatasource(Datasource):
    """Reads whole shards.

    Args:
        shards: name -> where; made absolute here because workers have other working directories.
        config_hash: the run's config hash, for each sample's provenance.
        prepare: turns the rows of a shard into other rows before they are counted; None leaves them as they are.
    """

    def __init__(
        self, shards: Mapping[str, Location], config_hash: str, prepare: Callable[[list[Row]], list[Row]] | None = None
    ):
        super().__init__()
        self._prepare = prepare
        self._shards = {name: place.absolute() for name, place in shards.items()}
        self._config_hash = config_hash
        self._bytes: int | None = None

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of the shards, as images stay encoded; estimated from a sample of the shards and cached."""
        if self._bytes is None:
            sample = list(self._shards.values())[:: len(self._shards) // SAMPLED_SHARDS + 1]
            self._bytes = sum(map(_size, sample)) * len(self._shards) // max(1, len(sample))
        return self._bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task per shard, whatever `parallelism` says: a block must be a whole shard."""
        return [
            ReadTask(
                partial(_read, name, place, self._config_hash, self._prepare, size or None),
                BlockMetadata(num_rows=None, size_bytes=size, input_files=[str(place)], exec_stats=None),
            )
            for name, place, size in ((name, place, _size(place)) for name, place in self._shards.items())
        ]


def _read(
    name: str, place: Location, config_hash: str, prepare: Callable[[list[Row]], list[Row]] | None, size: int | None
) -> list[pa.Table]:
    path = str(place)
    if place.local is not None:  # in a bucket, reading notices whether it is still what the listing said
        FileState(path=path, size=size).check()
    found = InputFile.at(place)
    rows = read_shard(place)
    if prepare is not None:
        rows = prepare(rows)
    traced = [_traced(row, path, index, config_hash) for index, row in enumerate(rows)]
    return [Block(name=name, shard=path, first=0, shard_rows=len(rows), rows=traced, input=found).to_table()]


def _traced(row: Row, path: str, index: int, config_hash: str) -> Row:
    if not isinstance(row, Sample):
        return row
    digests = [digest(image.data) for image in row.images]
    return with_provenance(row, shard=path, index=index, images_sha256=digests, config=config_hash)


def _size(place: Location) -> int:
    if place.local is None:
        return place.listed.size if place.listed else 0
    try:
        return place.local.stat().st_size if place.local.is_file() else 0
    except OSError:
        return 0  # its reader reports the error
