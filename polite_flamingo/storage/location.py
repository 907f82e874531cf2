"""A place in a store: what `Path` is on a disk, for folders and buckets alike.

    out = location("s3://bucket/out")
    (out / "manifests" / "a.json").create(data)

Only what every store can do is here; nothing is renamed, appended to or locked. Each method is one request (`names` and
`entries` one per page), so ask for a listing where there are many.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from polite_flamingo.storage.store import Entry, Folder, Store, open_store

SPOOL_BYTES = 64 << 20
"""What a writer holds in memory before it goes to a scratch file of this machine."""


@dataclass(frozen=True)
class Location:
    """An object, or the folder of the objects below it.

    Attributes:
        store: where it is.
        key: its key there; "" for the store's root.
    """

    store: Store
    key: str = ""

    def __truediv__(self, name: str) -> Location:
        return Location(self.store, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.store.url}/{self.key}" if self.key else self.store.url

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(str(self)).name

    @property
    def parent(self) -> Location:
        """The folder that it is in. Raises `ValueError` at the root of the store."""
        if not self.key:
            raise ValueError(f"{self} is the root of its store")
        return Location(self.store, self.key.rpartition("/")[0])

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk; None in a bucket."""
        return self.store.root / self.key if isinstance(self.store, Folder) else None

    def read_bytes(self) -> bytes:
        """Read the object. Raises `FileNotFoundError`."""
        return self.store.get(self.key)

    def read_text(self) -> str:
        """Read the object as UTF-8. Raises `FileNotFoundError`."""
        return self.read_bytes().decode()

    def open(self) -> io.BufferedReader:
        """Stream the object. Raises `FileNotFoundError`."""
        return self.store.open(self.key)

    def head(self) -> Entry | None:
        """Describe the object; None if there is none."""
        return self.store.head(self.key)

    def put(self, data: bytes | str | BinaryIO) -> None:
        """Write the object, replacing what is there."""
        self.store.put(self.key, data.encode() if isinstance(data, str) else data)

    def create(self, data: bytes | str) -> bool:
        """Write the object unless there is one with other content; return whether it now holds `data`."""
        return self.store.create(self.key, data.encode() if isinstance(data, str) else data)

    def swap(self, data: bytes | str, tag: str) -> str | None:
        """Replace the object if it has this tag; return the new tag, None if it was changed."""
        return self.store.swap(self.key, data.encode() if isinstance(data, str) else data, tag)

    @contextmanager
    def writer(self) -> Iterator[BinaryIO]:
        """Open a file that becomes the object when the block ends without an error; otherwise nothing changes."""
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            yield spool  # type: ignore[misc]
            spool.seek(0)
            self.put(spool)  # type: ignore[arg-type]

    def delete(self) -> None:
        """Delete the object, if it is there."""
        self.store.delete([self.key])

    def delete_tree(self) -> None:
        """Delete every object below this folder."""
        self.store.delete(entry.key for entry in self.entries())

    def entries(self) -> Iterator[Entry]:
        """List the objects below this folder, with their keys in the store."""
        return self.store.list(self.key)

    def names(self, suffix: str = "") -> list[str]:
        """Return the names of the objects below this folder that end in `suffix`, without it."""
        start = len(self.key) + 1 if self.key else 0
        return [entry.key[start:].removesuffix(suffix) for entry in self.entries() if entry.key.endswith(suffix)]


def location(where: str | Path | Location) -> Location:
    """Return the location of a folder, a file or an address of a bucket."""
    return where if isinstance(where, Location) else Location(open_store(where))
