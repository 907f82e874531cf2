"""A rank's groups through Ray Data: Ray tasks read and pack them, in order, ahead of the training loop.

Reading tars and packing rows is Python work that would hold up a GPU, so other processes do it, at most `ahead_bytes`
ahead. `data.py` alone decides which rows come, and in which order: a group is a pure function of its number, so a
stream can start at any group, and a lost task is simply run again.

Each group travels between processes as one pickle in an Arrow row. Ray Data's own split of a dataset between workers is
not used: it starts at row 0 after every restart, and gives a worker whichever block is ready.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from polite_flamingo.packing.pack import Packed
from training.data import Group, LocalStream, PackedData
from training.workers_config import StreamingConfig

SCHEMA = pa.schema([("group", pa.large_binary())])  # 32-bit offsets would limit a group to 2 GiB


class RayStream(LocalStream):
    """`LocalStream`, packed by Ray tasks. Needs a process connected to Ray, such as a Ray Train worker."""

    def __init__(self, data: PackedData, rank: int, size: int, streaming: StreamingConfig):
        """Args: data, rank, size: as for `LocalStream`. streaming: how far ahead to pack."""
        super().__init__(data, rank, size)
        self._streaming = streaming

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        """Yield this rank's groups of an epoch, packed, starting with number `first`."""
        import ray

        todo = self.groups(epoch)[first:]
        if not todo:
            return
        pack = partial(pack_numbers, data=self.data, groups=todo, epoch=epoch)
        dataset = ray.data.from_items(list(range(len(todo))), override_num_blocks=len(todo))
        _configure(dataset.context, self._streaming)
        packed = dataset.map_batches(
            pack,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._streaming.task_cpus,
            compute=ray.data.TaskPoolStrategy(size=min(self._streaming.tasks, len(todo))),
        )
        for table in packed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield from from_table(table)


def pack_numbers(table: pa.Table, data: PackedData, groups: Sequence[Group], epoch: int) -> pa.Table:
    """Pack the groups whose numbers are in `table`; runs in a Ray task."""
    return to_table([data.pack(groups[number], epoch) for number in table.column("item").to_pylist()])


def to_table(groups: Sequence[Packed]) -> pa.Table:
    """Return packed groups as an Arrow table, one pickle each; `from_table` is its inverse."""
    return pa.table({"group": [pickle.dumps(group) for group in groups]}, schema=SCHEMA)


def from_table(table: pa.Table) -> Iterator[Packed]:
    """Yield the groups of a table, in order."""
    for group in table.column("group"):
        yield pickle.loads(group.as_buffer())


def _configure(context: Any, streaming: StreamingConfig) -> None:
    """Set Ray Data's options for this dataset only; the process may have other datasets."""
    context.execution_options.preserve_order = True
    # Without a limit in bytes, Ray Data packs as much of the epoch ahead as the object store holds.
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=streaming.ahead_bytes
    )
    context.target_max_block_size = None  # a block stays a group
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the error itself comes out of the stream
