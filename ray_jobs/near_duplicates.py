"""Compare the samples of all finished shards; shards without signatures get them first, if a threshold needs them.

Builds of earlier versions wrote no signatures. Computing them decodes every picture once; they are then part of the
shard, so the next selection takes seconds again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.near_duplicates.find import NearDuplicates, find
from polite_flamingo.storage.attempts import new_attempt
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    change_manifest,
    file_of,
    named_files,
    read_manifest,
    read_scored,
    write_file,
)
from polite_flamingo.storage.location import Location
from ray_jobs.progress import counted, phase

Across = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Calls a function on items, several at once; yields the results in order."""


def near_duplicates(
    layout: OutputLayout,
    shards: Sequence[tuple[str, Location | None, int]],
    thresholds: Thresholds,
    across: Across,
    *,
    scratch: Path,
) -> NearDuplicates:
    """Return the similarities of samples to earlier ones.

    Args:
        layout: the output folder.
        shards: name, signature file and number of samples of each shard that has samples.
        thresholds: of the selection.
        across: calls a function on shards.
        scratch: a folder on this machine's disk for temporary files.

    Raises:
        ValueError: a signature file is damaged; the message names it.
    """
    found = find(shards, scratch=scratch)
    if not found.unsigned or (thresholds.near_text, thresholds.near_image) == (None, None):
        return found
    from polite_flamingo.near_duplicates.signatures import method

    unsigned = {*find(shards, scratch=scratch, made_by=method()).unsigned}
    phase(f"computing signatures of {counted(len(unsigned), 'shard')}, once")
    for _ in across(partial(_sign, layout=layout.absolute()), sorted(unsigned)):
        pass
    signed = (
        (name, file_of(layout, name, read_manifest(layout.manifest(name)), "near") if name in unsigned else file, count)
        for name, file, count in shards
    )
    return find([*signed], scratch=scratch, made_by=method())


def _sign(name: str, *, layout: OutputLayout) -> None:
    """Add signatures to a finished shard that has none, or those of another method."""
    from polite_flamingo.near_duplicates.signatures import sign

    file = write_file(layout, name, new_attempt(), "near", sign(read_scored(layout, name)).encode())

    def change(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, files={**named_files(layout, name, manifest), "near": file})

    change_manifest(layout, name, change)
