"""A place in a store: what `Path` is on a disk, for folders and buckets alike.

    out = location("s3://bucket/out")
    (out / "manifests" / "a.json").create(data)

Only what every store can do is here; nothing is renamed, appended to or locked. Each method is one request (`names` and
`entries` one per page), so ask for a listing where there are many.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from polite_flamingo.storage import hub_files
from polite_flamingo.storage.bucket import SCHEMES, get_bucket
from polite_flamingo.storage.disk import Disk
from polite_flamingo.storage.store import Entry, Store


@dataclass(frozen=True, slots=True)
class Location:
    """An object, or the folder of the objects below it.

    Attributes:
        store: where it is.
        key: its key there; "" for the root of a bucket.
        listed: what a listing said of the object, which spares asking again before it is read; None if unknown.
    """

    store: Store
    key: str
    listed: Entry | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Location, (self.store, self.key, self.listed)

    def __truediv__(self, name: str) -> Location:
        return Location(self.store, f"{self.key.rstrip('/')}/{name}" if self.key else name)

    def __str__(self) -> str:
        return self.store.url + self.key

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        above = str(PurePosixPath(self.key).parent) if self.local else self.key.rpartition("/")[0]
        return Location(self.store, above)

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk; None in a bucket."""
        return Path(self.key) if isinstance(self.store, Disk) else None

    def absolute(self) -> Location:
        """Return the same place for a process with another working directory."""
        return self if self.local is None else Location(self.store, os.path.abspath(self.key), self.listed)  # noqa: PTH100

    @property
    def path(self) -> Path:
        """The path on this machine's disk. Raises `ValueError` in a bucket."""
        if self.local is None:
            raise ValueError(f"{self} must be on a disk: give a folder")
        return self.local

    def read_bytes(self) -> bytes:
        """Read the object. Raises `FileNotFoundError`."""
        return self.store.get(self.key)

    def read_text(self) -> str:
        """Read the object as UTF-8. Raises `FileNotFoundError`."""
        return self.read_bytes().decode()

    def open(self) -> io.BufferedReader:
        """Stream the object. Raises `FileNotFoundError`."""
        return self.store.open(self.key, self.listed)

    def head(self) -> Entry | None:
        """Describe the object; None if there is none."""
        return self.store.head(self.key)

    def exists(self) -> bool:
        """Return whether the object is there."""
        return self.store.head(self.key) is not None

    def put(self, data: bytes | str) -> None:
        """Write the object, replacing what is there."""
        self.store.put(self.key, data.encode() if isinstance(data, str) else data)

    def writer(self, *, sync: bool = True) -> AbstractContextManager[BinaryIO]:
        """Open a file that becomes the object when the block ends without an error (`Store.writer`)."""
        return self.store.writer(self.key, sync=sync)

    def create(self, data: bytes | str) -> bool:
        """Write the object unless there is one with other content; return whether it now holds `data`."""
        return self.store.create(self.key, data.encode() if isinstance(data, str) else data)

    def swap(self, data: bytes | str, tag: str) -> str | None:
        """Replace the object if it has this tag; return the new tag, None if it was changed."""
        return self.store.swap(self.key, data.encode() if isinstance(data, str) else data, tag)

    def delete(self) -> None:
        """Delete the object, if it is there."""
        self.store.delete([self.key])

    def delete_tree(self) -> None:
        """Delete every object below this folder, and on a disk the folder."""
        self.store.delete_tree(self.key)

    def entries(self) -> Iterator[Entry]:
        """List the objects below this folder, with their keys in the store."""
        return self.store.list(self.key)

    def names(self, suffix: str = "", at_most: int | None = None) -> list[str]:
        """Return the names of the objects below this folder that end in `suffix`, without it.

        Args:
            suffix: such as ".json".
            at_most: number of names that will do, so that not everything is listed; None for all.
        """
        start = len(self.key.rstrip("/")) + 1 if self.key else 0
        keys = (key for key in self.store.keys(self.key) if key.endswith(suffix))
        return [key[start:].removesuffix(suffix) for key in islice(keys, at_most)]


def location(where: str | Path | Location) -> Location:
    """Return the location of a path or of an address such as s3://bucket/folder."""
    if isinstance(where, Location):
        return where
    scheme, separator, rest = str(where).partition("://")
    if scheme + separator == hub_files.SCHEME:
        return Location(_HUB, rest.rstrip("/"))
    if scheme + separator not in SCHEMES:
        return Location(_DISK, str(where))
    bucket, _, key = rest.partition("/")
    return Location(get_bucket(f"{scheme}://{bucket}/"), key.rstrip("/"))


_DISK, _HUB = Disk(), hub_files.HubFiles()


def write_atomically(where: str | Path | Location, data: bytes | str) -> None:
    """Write an object: it is there completely or not at all."""
    location(where).put(data)


def replacing(where: str | Path | Location, *, sync: bool = True) -> AbstractContextManager[BinaryIO]:
    """Open a file that replaces an object when the block ends without an error; otherwise nothing changes."""
    return location(where).writer(sync=sync)
