"""Where data lies: this machine's disk (`disk.py`) or a bucket (`bucket.py`), behind the same operations.

Keys use `/`. An object is there completely or not at all, whoever dies while writing it, and a store
never renames: on S3 that would be a copy and a deletion. `create` and `swap` are atomic between machines, which is all
that a commit and a lease need. A store can be pickled.
"""

from __future__ import annotations

import errno
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

READ_AHEAD = 4 << 20
"""Bytes that one request reads of an object that is streamed."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a listing: its key, its size in bytes, and a tag that changes whenever the object is replaced."""

    key: str
    size: int
    tag: str


class Store(ABC):
    """A tree of objects.

    Methods raise `FileNotFoundError` for a missing object, and `PathUnavailable` for a store that fails.
    """

    url: str
    """What stands before a key: "" on a disk, s3://bucket/ for a bucket."""

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """Describe an object; None if there is none."""

    @abstractmethod
    def get(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """Read an object, or `size` bytes of it from `start` on."""

    @abstractmethod
    def writer(self, key: str, *, sync: bool = True) -> AbstractContextManager[BinaryIO]:
        """Open a file that replaces the object when the block ends without an error; otherwise nothing changes.

        Args:
            key: of the object.
            sync: whether to wait until the bytes are on disk; a bucket always does.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there."""
        with self.writer(key) as file:
            file.write(data)

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one with other content; return whether it now holds `data`.

        The same content counts as success: the answer to a first try may have been lost on the way.
        """

    @abstractmethod
    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Replace an object if it still has this tag (compare-and-swap); return the new tag, None if it was changed."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List the objects in the folder `prefix` and below, in any order; nothing if there is no such folder."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already do not matter."""

    def open(self, key: str) -> io.BufferedReader:
        """Stream an object, `READ_AHEAD` bytes per request."""
        entry = self.head(key)
        if entry is None:
            raise FileNotFoundError(self.url + key)
        return io.BufferedReader(_Ranges(self, entry), READ_AHEAD)


class _Ranges(io.RawIOBase):
    """An object as a file: each read is one request for a range, so a lost connection costs one range."""

    def __init__(self, store: Store, entry: Entry):
        self._store, self._entry, self._place = store, entry, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; nothing is requested."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._entry.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Request the next range."""
        size = max(0, min(len(buffer), self._entry.size - self._place))
        data = self._store.get(self._entry.key, self._place, size) if size else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
