"""Look up COCO's captions and boxes of an image, which replace a detailed description.

LLaVA names the image `000000442786.jpg`, COCO `COCO_train2014_000000442786.jpg` with id 442786: the last digits of a
name are the id. The annotation files are read once, record by record, into an index that every worker opens.
`datasets/coco.py` and `records/responses.py` word the annotations as they do at ingest.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from polite_flamingo.images import decoding
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.datasets.coco import describe, records
from polite_flamingo.sources.reading.field_checks import usable_id
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.location import Location


class NoCaptions(Exception):
    """A sample has no captions; `why` is the reason under which it is counted."""

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


def index_name(annotations: Sequence[str]) -> str:
    """Return a file name that depends on the annotation files. Raises `ValueError` if one is missing."""
    stamps = []
    for name in annotations:
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"distortion.retrieval.annotations: {path} is not a file")
        stamps.append([path.name, path.stat().st_size, _digest_of_ends(path)])
    return f"coco-{hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]}.sqlite"


def write_index(annotations: Sequence[str], where: Location) -> Counter[str]:
    """Read the files into an index, unless it exists.

    Returns:
        The number of images in it ("images"), and of bad records by reason; empty if the index existed.

    Raises:
        SourceError: a file is unusable as a whole.
    """
    if where.head() is not None:
        return Counter()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="captions-") as folder:  # SQLite needs a disk
        with closing(sqlite3.connect(Path(folder) / "index")) as database:
            database.execute("CREATE TABLE image (id TEXT PRIMARY KEY, joined TEXT) WITHOUT ROWID")
            for _, _, joined in records(SourceOptions(annotations=tuple(map(Path, annotations))), Scratch()):
                if isinstance(joined, BadSample):
                    counts[joined.reason] += 1
                    continue
                image_id = usable_id(joined["record"], "id")
                if image_id is None:
                    counts["bad_field"] += 1
                    continue
                database.execute("INSERT OR IGNORE INTO image VALUES (?, ?)", (image_id, json.dumps(joined)))
                counts["images"] += 1
            database.commit()
        with (Path(folder) / "index").open("rb") as made, where.writer() as file:
            shutil.copyfileobj(made, file)
    return counts


class CaptionIndex:
    """Looks up images in an index that `write_index` wrote; one in a bucket is copied to this machine first."""

    def __init__(self, where: Location):
        self.where = where
        with tempfile.NamedTemporaryFile(prefix="captions-") as copy:
            if where.local is None:
                with where.open() as stored:
                    shutil.copyfileobj(stored, copy)
                copy.flush()
            address = f"{(where.local or Path(copy.name)).resolve().as_uri()}?mode=ro&immutable=1"
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)  # actors run on another
            self._database.execute("SELECT 1 FROM image LIMIT 1")  # opens the file: the copy's name is gone after this

    def response(self, sample: Sample) -> tuple[str, dict[str, Any]]:
        """Return the captions and boxes of the sample's image, and its id and how many there are.

        Raises:
            NoCaptions: the image is not annotated.
        """
        image_id = image_number(sample)
        row = self._database.execute("SELECT joined FROM image WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise NoCaptions("image_not_annotated")
        joined = json.loads(row[0])
        record = joined["record"]
        try:
            if not ("width" in record and "height" in record):
                header = decoding.inspect(sample.images[0].data)
                record = {**record, "width": header.width, "height": header.height}
            response, meta = describe({**joined, "record": record}, record["width"], record["height"])
        except BadSample as bad:
            raise NoCaptions(bad.reason) from None
        return response, {"image_id": image_id, **meta}


def image_number(sample: Sample) -> str:
    """Return COCO's id of a sample's image, from what its source recorded. Raises `NoCaptions`."""
    names = sample.meta.get("images")
    name = sample.meta.get("image_id") or (names[0] if isinstance(names, list) and names else "")
    digits = re.search(r"(\d+)(?:\.\w+)?$", str(name))
    if digits is None:
        raise NoCaptions("image_without_number")
    return digits[1].lstrip("0") or "0"


def _digest_of_ends(path: Path, piece: int = 1 << 20) -> str:
    """Digest the first and last MiB, because annotation files have hundreds of megabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(piece))
        if (size := path.stat().st_size) > piece:
            file.seek(max(piece, size - piece))
            digest.update(file.read())
    return digest.hexdigest()[:16]
