"""Export kept samples as OUT/pf1m/*.tar: WebDataset that the libraries `webdataset` and `datasets` read whole.

    KEY.json   one record, with the same fields in every row (`export_record.py`)
    KEY.0.jpg  the first image, unchanged; KEY.1.jpg the second …

`datasets` takes its columns from the first rows of the first tar, refuses rows there that differ, and drops additional
columns of later rows. So every image is called .jpg whatever its format (decoders go by content; the record's `images`
names the format), and all rows of a tar have the same number of images. If that number varies, tars with more images
come first by name: `0-pictures-2-NAME.tar`, `1-pictures-1-NAME.tar`.

So the names depend on the numbers of images of all kept samples (`prefixes`), which are known only once every shard has
been selected. They are those of the scored samples unless a selection rejects all with some number of images: the tars
are written under the names expected from these (`count_images`), and written once more if they are wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import write_shard

FOLDER = "pf1m"
"""The folder of the tars below the output folder."""


def count_images(rows: Sequence[Sample | Quarantined]) -> dict[str, dict[str, int]]:
    """Return "images" -> number of images -> number of samples with as many, for a manifest."""
    counts = Counter(str(len(row.images)) for row in rows if isinstance(row, Sample))
    return {"images": dict(sorted(counts.items()))}


def prefixes(numbers: Iterable[int]) -> dict[int, str]:
    """Return how the names of tars begin: number of images of each row -> prefix, empty if there is only one number."""
    ordered = sorted({*numbers}, reverse=True)
    if len(ordered) == 1:
        return {ordered[0]: ""}
    digits = len(str(len(ordered) - 1))
    return {number: f"{rank:0{digits}}-pictures-{number}-" for rank, number in enumerate(ordered)}


def forget_tars(out: Location) -> None:
    """Remove the tars of the previous selection, whose names may differ."""
    (out / FOLDER).delete_tree()


def write_tars(samples: Sequence[Sample], *, out: Location, name: str, names: Mapping[int, str]) -> None:
    """Write the kept samples of one shard: one tar per number of images that its rows have.

    Args:
        samples: kept samples, in order; those with a number of images that is not in `names` are left out.
        out: the output folder.
        name: the shard's name.
        names: prefixes of the tars' names.
    """
    by_number: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_number[len(sample.images)].append(sample)
    for number, rows in by_number.items():
        if number in names:
            write_shard(out / FOLDER / f"{names[number]}{name}.tar", rows, uniform=True)
