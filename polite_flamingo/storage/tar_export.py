"""Kept samples -> OUT/pf1m/*.tar, WebDataset that the libraries `webdataset` and `datasets` read whole.

    KEY.json   one record, the same fields in every row (`export_record.py`)
    KEY.0.jpg  the first picture as it came from the source, bit by bit; KEY.1.jpg the second …

`datasets` takes its columns from the first rows of the first tar, refuses rows there that differ, and drops what later
rows have more. So a picture is called .jpg whatever its format (every decoder goes by content; the record's `images`
names the format), and a tar holds rows of one number of pictures. Where rows differ in it, the tars with more pictures
come first by name: `0-pictures-2-NAME.tar`, `1-pictures-1-NAME.tar`.

The selection of a shard writes its tars under OUT/exports (`write_tars`). They get their names at the end
(`place_tars`), when it is known how many pictures the rows have.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from polite_flamingo.sample import Sample
from polite_flamingo.storage.shards import write_shard


def forget_tars(out: Path) -> None:
    """Remove the tars of the selection before: a shard's may be called otherwise now."""
    shutil.rmtree(_part(out), ignore_errors=True)
    if _final(out).is_dir():
        for name in os.listdir(_final(out)):  # noqa: PTH208 - there may be a million
            if name.endswith(".tar"):
                (_final(out) / name).unlink()


def write_tars(samples: Sequence[Sample], *, out: Path, name: str) -> None:
    """Write the kept samples of one shard: a tar for each number of pictures that its rows have.

    Args:
        samples: kept, in order.
        out: the output folder.
        name: of the shard.
    """
    by_pictures: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_pictures[len(sample.images)].append(sample)
    for pictures, rows in by_pictures.items():
        write_shard(_part(out) / str(pictures) / f"{name}.tar", rows, uniform=True)


def place_tars(out: Path) -> None:
    """Give the tars their names, those with most pictures first."""
    _final(out).mkdir(parents=True, exist_ok=True)
    parts = _parts(out)
    digits = len(str(len(parts) - 1))
    for rank, pictures in enumerate(sorted(parts, reverse=True)):
        prefix = f"{rank:0{digits}}-pictures-{pictures}-" if len(parts) > 1 else ""
        for name in os.listdir(parts[pictures]):  # noqa: PTH208
            (parts[pictures] / name).replace(_final(out) / f"{prefix}{name}")


def _final(out: Path) -> Path:
    return out / "pf1m"


def _part(out: Path) -> Path:
    return out / "exports" / "pf1m"


def _parts(out: Path) -> dict[int, Path]:
    """Number of pictures -> the folder of its tars, not named yet."""
    return {int(folder.name): folder for folder in _part(out).iterdir()} if _part(out).is_dir() else {}
