"""Export kept samples as OUT/pf1m/*.tar: WebDataset that the libraries `webdataset` and `datasets` read whole.

    KEY.json   one record, with the same fields in every row (`export_record.py`)
    KEY.0.jpg  the first image, unchanged; KEY.1.jpg the second …

`datasets` takes its columns from the first rows of the first tar, refuses rows there that differ, and drops additional
columns of later rows. So every image is called .jpg whatever its format (decoders go by content; the record's `images`
names the format), and all rows of a tar have the same number of images. If that number varies, tars with more images
come first by name: `0-pictures-2-NAME.tar`, `1-pictures-1-NAME.tar`.

The selection of a shard writes its tars under OUT/exports (`write_tars`). They get their names at the end
(`place_tars`), once all numbers of images are known.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from polite_flamingo.sample import Sample
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import write_shard

FINAL = "pf1m"
UNNAMED = "exports/pf1m"
"""The folder of tars that have no final name yet, with one subfolder per number of images."""


def forget_tars(out: Path) -> None:
    """Remove the tars of the previous selection, whose names may differ."""
    shutil.rmtree(out / UNNAMED, ignore_errors=True)
    for name in location(out / FINAL).names(".tar"):
        (out / FINAL / f"{name}.tar").unlink()


def write_tars(samples: Sequence[Sample], *, out: Path, name: str) -> None:
    """Write the kept samples of one shard: one tar per number of images that its rows have.

    Args:
        samples: kept samples, in order.
        out: the output folder.
        name: the shard's name.
    """
    by_count: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_count[len(sample.images)].append(sample)
    for pictures, rows in by_count.items():
        write_shard(out / UNNAMED / str(pictures) / f"{name}.tar", rows, uniform=True)


def place_tars(out: Path) -> None:
    """Give the tars their names, those with the most images first."""
    (out / FINAL).mkdir(parents=True, exist_ok=True)
    counts = sorted({int(name.split("/")[0]) for name in location(out / UNNAMED).names()}, reverse=True)
    digits = len(str(len(counts) - 1))
    for rank, pictures in enumerate(counts):
        prefix = f"{rank:0{digits}}-pictures-{pictures}-" if len(counts) > 1 else ""
        folder = out / UNNAMED / str(pictures)
        for name in location(folder).names():
            (folder / name).replace(out / FINAL / f"{prefix}{name}")
