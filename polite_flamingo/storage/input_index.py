"""What finished shards were made of: reading a million manifests takes minutes, reading their index takes seconds.

    OUT/index/RANDOM.arrow   one row per shard: its name, its manifest's tag, and the `InputFile` in its manifest

The index is never needed: a row counts if its manifest still has the same tag, and the other manifests are read. It is
written in pieces while a job runs, so that a killed job has most of it. Small outputs have none.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pyarrow as pa

from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import OutputLayout, read_manifest

PIECE = 10_000
"""Shards that a job finishes before it extends the index."""

SMALLEST = 1_000
"""Fewer shards are not worth a piece."""

THREADS = 32
"""Manifests that are read at once: a store answers each after milliseconds, and many at the same time."""

_INPUT = [
    ("size", pa.int64()), ("mtime_ns", pa.int64()), ("ctime_ns", pa.int64()), ("sha256", pa.string()),
    ("tag", pa.string()),
]  # fmt: skip
_SCHEMA = pa.schema([("name", pa.string()), ("manifest", pa.string()), ("input", pa.struct(_INPUT))])


def finished_tags(layout: OutputLayout) -> dict[str, str]:
    """Return the name of each finished shard -> the tag of its manifest, from one listing.

    A disk lists names alone, and a question per shard would take an hour on a network: there the tags are "".
    """
    folder = layout.root / "manifests"
    if folder.local is not None:
        return dict.fromkeys(layout.finished(), "")
    start = len(folder.key) + 1
    return {
        entry.key[start:].removesuffix(".json"): entry.tag for entry in folder.entries() if entry.key.endswith(".json")
    }


def made_of(layout: OutputLayout, tags: Mapping[str, str]) -> Iterator[tuple[str, InputFile | None]]:
    """Yield finished shards and what each was made of (None: an earlier version did not note it), in any order.

    Args:
        layout: the output folder.
        tags: the shards, from `finished_tags`.

    Raises:
        ValueError: a manifest is damaged.
    """
    left = _with_tags(layout, tags)
    for piece in _pieces(layout):
        for name, tag, found in zip(*(piece[column].to_pylist() for column in _SCHEMA.names), strict=True):
            if left.get(name) == tag:
                del left[name]
                yield name, None if found is None else InputFile(**found)
    yield from _read(layout, left)


def extend_index(layout: OutputLayout) -> None:
    """Add the finished shards that the index lacks, if they are many."""
    left = _with_tags(layout, finished_tags(layout))
    for piece in _pieces(layout):
        for name, tag in zip(piece["name"].to_pylist(), piece["manifest"].to_pylist(), strict=True):
            if left.get(name) == tag:
                del left[name]
    if len(left) < SMALLEST:
        return
    rows = [
        {"name": name, "manifest": left[name], "input": None if found is None else asdict(found)}
        for name, found in _read(layout, left)
    ]
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    (layout.index / f"{secrets.token_hex(8)}.arrow").put(sink.getvalue())


def _with_tags(layout: OutputLayout, tags: Mapping[str, str]) -> dict[str, str]:
    if layout.root.local is None:
        return dict(tags)
    entries = ((name, layout.manifest(name).head()) for name in tags)
    return {name: entry.tag for name, entry in entries if entry is not None}


def _read(layout: OutputLayout, tags: Mapping[str, str]) -> Iterator[tuple[str, InputFile | None]]:
    manifests = in_order(lambda name: read_manifest(layout.manifest(name)), tags, THREADS)
    for name, manifest in zip(tags, manifests, strict=True):
        yield name, manifest.input


def _pieces(layout: OutputLayout) -> Iterator[pa.Table]:
    def read(name: str) -> pa.Table:
        data = (layout.index / f"{name}.arrow").read_bytes()
        try:
            return pa.ipc.open_file(data).read_all().cast(_SCHEMA)
        except (OSError, ValueError, pa.ArrowException):
            return _SCHEMA.empty_table()  # damaged: the manifests are read instead

    yield from in_order(read, layout.index.names(".arrow"), 4)
