"""A place in a bucket or on a hub as a `Path`, for the readers of sources, which open files and walk folders.

Nothing is copied to the disk: `open` streams. An address that needs a real file fails in `__fspath__`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PosixPath
from typing import Any

from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.store import READ_AHEAD, Entry
from polite_flamingo.storage.tree import Tree
from polite_flamingo.storage.user_paths import is_address

RANDOM_READ = 1 << 20
"""Bytes per request of a file that is not read from its start to its end."""


def source_path(where: str | Path | Location) -> Path:
    """Return a path, which is a `RemotePath` for an address."""
    return RemotePath(str(where)) if is_address(str(where)) else Path(str(where))


def version_of(path: Path) -> int | str:
    """Return what changes when a file does: its modification time, or in a bucket its ETag. Raises `OSError`."""
    if isinstance(path, RemotePath):
        entry = path.entry()
        return entry.tag if entry else ""
    return path.stat().st_mtime_ns


def walk(
    folder: Path, *, followlinks: bool = False, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder like `os.walk`, top down; in a bucket with one listing."""
    if not isinstance(folder, RemotePath):
        for at, folders, names in os.walk(folder, onerror=onerror, followlinks=followlinks):
            yield Path(at), folders, names
        return
    for inside, folders, names in Tree(folder.place).walk():
        yield folder / inside, folders, names


class RemotePath(PosixPath):
    """A path whose first parts are the scheme and the bucket."""

    __slots__ = ("_known",)

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not on this machine's disk: open it, or copy it to a folder first")

    @property
    def place(self) -> Location:
        """The same place in its store."""
        return location(str(self))

    def entry(self) -> Entry | None:
        """Describe the file, asking once; None if there is none."""
        known: Entry | None = getattr(self, "_known", None)
        if known is None:
            known = self.place.head() if self.place.key else None
            self._known = known
        return known

    def absolute(self) -> RemotePath:
        """Return the path itself."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        """Return the path itself: a bucket has no links, and `..` is a name there."""
        return self

    def is_symlink(self) -> bool:
        """Return False."""
        return False

    def is_file(self, **options: Any) -> bool:
        """Whether there is an object."""
        return self.entry() is not None

    def is_dir(self, **options: Any) -> bool:
        """Whether there is an object below."""
        return next(self.place.entries(), None) is not None

    def exists(self, **options: Any) -> bool:
        """Whether there is an object, here or below."""
        return self.is_file() or self.is_dir()

    def stat(self, **options: Any) -> os.stat_result:
        """Return kind and size; all else is 0. Raises `FileNotFoundError`."""
        entry = self.entry()
        if entry is None and not self.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        kind = stat.S_IFREG if entry else stat.S_IFDIR
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, entry.size if entry else 0, 0, 0, 0))

    def open(self, mode: str = "r", buffering: int = -1, *rest: Any, ahead: int = READ_AHEAD, **options: Any) -> Any:
        """Stream the file; only "rb" is possible."""
        assert mode == "rb", f"{self} is only read as bytes"
        return self.place.store.open(self.place.key, self.entry(), ahead=ahead)

    def read_bytes(self) -> bytes:
        """Read the file."""
        return self.place.read_bytes()

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Yield what is directly in the folder."""
        _, folders, names = next(Tree(self.place).walk())
        yield from (self / name for name in (*folders, *names))


def open_at_random(path: Path) -> io.BufferedReader:
    """Open a file of which parts are read here and there."""
    return path.open("rb", ahead=RANDOM_READ) if isinstance(path, RemotePath) else path.open("rb")
