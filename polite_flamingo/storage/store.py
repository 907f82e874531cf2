"""Where data lies: this machine's disk (`disk.py`) or a bucket (`bucket.py`), behind the same operations.

Keys use `/`. An object is there completely or not at all, whoever dies while writing it, and a store
never renames: on S3 that would be a copy and a deletion. `create` and `swap` are atomic between machines, which is all
that a commit and a lease need. A store can be pickled.
"""

from __future__ import annotations

import errno
import functools
import io
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

READ_AHEAD = 4 << 20
"""Bytes that one request reads of an object that is streamed."""

RANGES_AHEAD = 4
"""Ranges requested before they are wanted. Where a store takes 100 ms to answer, 6 shards of 33 MB took 5.7 s instead
of 7.8 s; with 30 ms, 3.9 s instead of 5.0 s."""

_THREADS_AHEAD = 16


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
    def get(self, key: str, start: int = 0, size: int | None = None, *, tag: str = "") -> bytes:
        """Read an object, or `size` bytes of it from `start` on.

        Args:
            key: of the object.
            start: where to begin.
            size: bytes to read; None reads to the end.
            tag: if given, `PathUnavailable` is raised unless the object still has it (a disk does not look).
        """

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

    def keys(self, prefix: str = "") -> Iterator[str]:
        """List the keys alone, which may be faster."""
        return (entry.key for entry in self.list(prefix))

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already do not matter."""

    def delete_tree(self, prefix: str) -> None:
        """Delete the objects in the folder `prefix` and below."""
        self.delete(self.keys(prefix))

    def open(self, key: str, known: Entry | None = None, *, ahead: int = READ_AHEAD) -> io.BufferedReader:
        """Stream an object by requests for ranges. While one is parsed, the next ones are requested.

        Args:
            key: of the object.
            known: what a listing said of it, which spares one request. `PathUnavailable` is raised if it has changed.
            ahead: bytes per request.
        """
        entry = known or self.head(key)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url + key)
        return io.BufferedReader(_Ranges(self, entry, ahead), 1 << 16)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.url == getattr(other, "url", None)

    def __hash__(self) -> int:
        return hash((type(self), self.url))


class _Ranges(io.RawIOBase):
    """An object as a file. A lost connection costs one range, and a replaced object is noticed by its tag."""

    def __init__(self, store: Store, entry: Entry, step: int):
        self._store, self._entry, self._step = store, entry, step
        self._place = self._start = 0
        self._range = memoryview(b"")
        self._asked: deque[tuple[int, Future[bytes]]] = deque()

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
        """Fill the buffer from the range at hand, or from the next one."""
        if self._place >= self._entry.size:
            return 0
        if not 0 <= self._place - self._start < len(self._range):
            self._fetch()
        part = self._range[self._place - self._start :][: len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _fetch(self) -> None:
        """Get the range at this place; ask for those after it if the reader goes straight on."""
        straight = 0 < len(self._range) == self._place - self._start
        if self._asked and self._asked[0][0] == self._place:
            data = self._asked.popleft()[1].result()
        else:
            self._drop()
            data = self._get(self._place)
        self._range, self._start = memoryview(data), self._place
        after = (self._asked[-1][0] if self._asked else self._place) + self._step
        while straight and len(self._asked) < RANGES_AHEAD and after < self._entry.size:
            self._asked.append((after, _pool().submit(self._get, after)))
            after += self._step

    def _drop(self) -> None:
        while self._asked:
            self._asked.popleft()[1].cancel()

    def close(self) -> None:
        """Forget what was asked for."""
        self._drop()
        super().close()

    def _get(self, start: int) -> bytes:
        size = min(self._step, self._entry.size - start)
        data = self._store.get(self._entry.key, start, size, tag=self._entry.tag)
        if len(data) != size:
            raise OSError(errno.EIO, f"{len(data)} of {size} bytes", self._store.url + self._entry.key)
        return data


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS_AHEAD, "read-ahead")
