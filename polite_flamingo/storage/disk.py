"""The disk of this machine as a store; keys are paths. A file with its final name is complete: it was written under a
temporary one, and synced.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from polite_flamingo.storage.store import READ_AHEAD, Entry, Store
from polite_flamingo.storage.visibility import PathUnavailable, reaching

LOCK_SECONDS = 10.0
"""How long a swap waits for another one, which takes milliseconds unless its process was stopped in the middle."""

_TEMPORARY = re.compile(r"\.tmp-(?:[0-9a-f]{1,16}|joining)$")


class Disk(Store):
    """Files, under the paths by which every machine of a job must see them."""

    url = ""

    def head(self, key: str) -> Entry | None:
        """Describe a file."""
        try:
            with reaching(Path(key)):
                return _entry(key, Path(key))
        except PathUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def get(self, key: str, start: int = 0, size: int | None = None, *, tag: str = "") -> bytes:
        """Read a file."""
        with (Path(key)).open("rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def open(self, key: str, known: Entry | None = None, *, ahead: int = READ_AHEAD) -> io.BufferedReader:
        """Open a file."""
        return (Path(key)).open("rb")

    @contextmanager
    def writer(self, key: str, *, sync: bool = True) -> Iterator[BinaryIO]:
        """Write under a temporary name, sync, rename."""
        with self._temporary(key) as (file, temporary):
            yield file
            _finish(file, sync=sync)
            temporary.replace(Path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write under a temporary name, sync, and link: a link fails if the name is taken, on NFS too.

        The folder is synced as well: what was created, and what was written beside it before, survives a power loss.
        """
        with self._temporary(key) as (file, temporary):
            file.write(data)
            _finish(file, sync=True)
            try:
                (Path(key)).hardlink_to(temporary)
            except FileExistsError:
                return self.get(key) == data
        _sync_folder(Path(key).parent)
        return True

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Compare and replace under a lock beside the file.

        Raises:
            PathUnavailable: another process has held the lock for `LOCK_SECONDS`. Only its end or its waking frees it:
                it may be about to replace the file.
        """
        path = Path(key)
        if not path.exists():
            return None
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            _lock(lock, path)
            found = self.head(key)
            if found is None or found.tag != tag:
                return None
            self.put(key, data)
            return _entry(key, path).tag

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Walk a folder; temporary files and locks are not objects."""
        for path in self.keys(prefix):
            try:
                yield _entry(path, path)
            except FileNotFoundError:
                continue  # deleted since the folder was listed

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Walk a folder without asking for each file's size and time: a million take seconds, not minutes."""
        for where, _, names in os.walk(prefix or "."):
            for name in names:
                if not is_temporary(name) and not (name.startswith(".") and name.endswith(".lock")):
                    yield os.path.join(where, name)  # noqa: PTH118

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files."""
        for key in keys:
            (Path(key)).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        """Remove a folder, temporary files included."""
        shutil.rmtree(prefix, ignore_errors=True)

    @contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a temporary file beside `key`; it is gone when the block ends, unless it was renamed."""
        temporary = temporary_name(Path(key))
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file, temporary
        finally:
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a unique name beside `path`; process ids would repeat in containers and on other machines."""
    return path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` made this name. A shard's own name may contain `.tmp-`."""
    return _TEMPORARY.search(name) is not None


def sweep_temporary(folder: Path | str) -> list[Path]:
    """Remove the files that killed writers left below `folder`; return their paths.

    The caller must hold the folder's lock (`lease.exclusive`), or a running writer would lose its file.
    """
    stale = sorted(
        Path(where, name) for where, _, files in os.walk(folder) for name in files if is_temporary(name)
    )  # a million files take a second; with a Path for each, a minute
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _lock(file: TextIO, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PathUnavailable(
                    f"a process has been changing {path} for {LOCK_SECONDS:.0f} s: it was probably stopped; let it go "
                    "on (kill -CONT) or kill it"
                ) from None
        time.sleep(0.005)


def _finish(file: BinaryIO, *, sync: bool) -> None:
    file.flush()
    if sync:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(key: str, path: Path | str) -> Entry:
    found = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return Entry(key=key, size=found.st_size, tag=f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")
