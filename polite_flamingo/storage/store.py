"""Where data lies: a folder of a disk, or a prefix of a bucket, behind the same few operations.

    open_store("out/demo")            a folder; paths are as the operating system knows them
    open_store("s3://bucket/prefix")  a bucket, by obstore; also gs:// and az://. Credentials come from the environment
                                      (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, …)

Keys are relative and use `/`. An object is there completely or not at all, whoever dies while writing it, and a store
never renames: on S3 that would be a copy and a deletion. `create` and `swap` are atomic between machines, which is all
that a commit and a lease need. A store can be pickled.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from polite_flamingo.storage.shards import is_temporary, temporary_name
from polite_flamingo.storage.visibility import PathUnavailable, reaching

SCHEMES = ("s3://", "gs://", "az://")
"""The addresses of buckets."""

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
    """The folder or the address, for messages."""

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """Describe an object; None if there is none."""

    @abstractmethod
    def get(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """Read an object, or `size` bytes of it from `start` on."""

    @abstractmethod
    def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write an object, replacing what is there."""

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

    @abstractmethod
    def below(self, folder: str) -> Store:
        """Return the store of a folder in this one."""

    def open(self, key: str) -> io.BufferedReader:
        """Stream an object, `READ_AHEAD` bytes per request."""
        entry = self.head(key)
        if entry is None:
            raise FileNotFoundError(f"{self.url}/{key}")
        return io.BufferedReader(_Ranges(self, entry), READ_AHEAD)


class Folder(Store):
    """A folder of a file system."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.url = str(root)

    def head(self, key: str) -> Entry | None:
        """Describe a file."""
        try:
            with reaching(self.root / key):
                return _entry(key, self.root / key)
        except PathUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def get(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """Read a file."""
        with (self.root / key).open("rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)

    def open(self, key: str) -> io.BufferedReader:
        """Open a file."""
        return (self.root / key).open("rb")

    def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write under a temporary name, sync, rename."""
        with self._written(key, data) as temporary:
            temporary.replace(self.root / key)

    def create(self, key: str, data: bytes) -> bool:
        """Write under a temporary name, sync, and link: a link fails if the name is taken, on NFS too."""
        with self._written(key, data) as temporary:
            try:
                (self.root / key).hardlink_to(temporary)
                return True
            except FileExistsError:
                return self.get(key) == data

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Compare and replace under a lock beside the file."""
        path = self.root / key
        if not path.exists():
            return None
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.head(key)
            if found is None or found.tag != tag:
                return None
            self.put(key, data)
            return _entry(key, path).tag

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Walk a folder; temporary files and locks are not objects."""
        start = len(os.path.join(self.root, ""))  # noqa: PTH118
        for where, _, names in os.walk(self.root / prefix):
            for name in names:
                path = os.path.join(where, name)  # noqa: PTH118
                if not is_temporary(name) and not (name.startswith(".") and name.endswith(".lock")):
                    try:
                        yield _entry(path[start:], path)
                    except FileNotFoundError:
                        continue  # deleted since the folder was listed

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def below(self, folder: str) -> Folder:
        """Return the store of a subfolder."""
        return Folder(self.root / folder)

    @contextmanager
    def _written(self, key: str, data: bytes | BinaryIO) -> Iterator[Path]:
        """Write and sync a temporary file beside `key`; it is gone when the block ends."""
        temporary = temporary_name(self.root / key)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, READ_AHEAD)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class Bucket(Store):
    """A prefix of a bucket, through obstore. A put is one request up to `ONE_REQUEST`: nothing is left to sweep."""

    ONE_REQUEST = 64 << 20
    """Largest object in bytes that is sent in one request; larger ones in parts, which only their end publishes."""

    _RETRIES: ClassVar[Any] = {
        "max_retries": 10,
        "retry_timeout": timedelta(minutes=3),
    }  # of 5xx, timeouts and lost connections

    def __init__(self, url: str):
        from obstore.store import from_url

        self.url = url.rstrip("/")
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")  # a server on the user's own network
        client: Any = {"allow_http": plain, "connect_timeout": "5s", "timeout": "120s"}
        with self._reaching(""):
            self._store = from_url(self.url, client_options=client, retry_config=self._RETRIES)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url,)  # credentials come from each machine's environment, never from a pickle

    def head(self, key: str) -> Entry | None:
        """Ask for an object's size and ETag."""
        try:
            with self._reaching(key):
                return _object(self._store.head(key))
        except FileNotFoundError:
            return None

    def get(self, key: str, start: int = 0, size: int | None = None) -> bytes:
        """Read an object, or a range of it."""
        with self._reaching(key):
            if start == 0 and size is None:
                return bytes(self._store.get(key).bytes())
            if size is None:
                return bytes(self._store.get(key, options={"range": {"offset": start}}).bytes())
            return bytes(self._store.get_range(key, start=start, length=size)) if size else b""

    def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write an object in one request, or in parts if it is large."""
        with self._reaching(key):
            self._store.put(key, data, use_multipart=_size(data) > self.ONE_REQUEST)

    def create(self, key: str, data: bytes) -> bool:
        """Write with `If-None-Match: *`."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._reaching(key):
            try:
                self._store.put(key, data, mode="create", use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                pass
        return self.get(key) == data

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Write with `If-Match`."""
        from obstore.exceptions import PreconditionError

        with self._reaching(key):
            try:
                return str(self._store.put(key, data, mode={"e_tag": tag}, use_multipart=False)["e_tag"])
            except (PreconditionError, FileNotFoundError):
                pass
        found = self.head(key)  # a lost answer: the first try may have replaced it
        return found.tag if found is not None and self.get(key) == data else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List in pages of a thousand."""
        with self._reaching(prefix):
            for page in self._store.list(prefix or None):
                yield from map(_object, page)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete in bulk, a thousand per request."""
        if wanted := list(keys):
            with self._reaching(wanted[0]):
                self._store.delete(wanted)

    def below(self, folder: str) -> Bucket:
        """Return the store of a longer prefix."""
        return Bucket(f"{self.url}/{folder}")

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        """Turn obstore's errors, which are not `OSError`s, into one line that says what to do."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise PathUnavailable(f"{self.url} cannot be used: {explained(error)}") from error
            raise
        except (BaseError, ValueError) as error:
            raise PathUnavailable(f"{f'{self.url}/{key}'.rstrip('/')} cannot be used: {explained(error)}") from error


_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the address",
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (NTP)",
    "AccessDenied": "access is denied: the key needs permission to list, read, write and delete there",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "SlowDown": "the store is overloaded and answered every retry with SlowDown: try again later, with fewer actors",
}
"""What an error code of S3 means for the user."""


def explained(error: Exception) -> str:
    """Return one line on why a store failed and what to do."""
    text = str(error).split("\n\nDebug source", 1)[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    if code and code[1] in _REMEDIES:
        return _REMEDIES[code[1]]
    if "169.254.169.254" in text or "metadata" in text.lower():
        return "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    if "error sending request" in text or "timed out" in text:
        address = re.search(r"https?://[^/ ]+", text)
        return (
            f"the store at {address[0] if address else 'this address'} does not answer: check its address and network"
        )
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:300]


def open_store(where: str | Path) -> Store:
    """Open a folder, or a bucket for an address of `SCHEMES`. Raises `PathUnavailable` for an impossible address."""
    return Bucket(str(where)) if str(where).startswith(SCHEMES) else Folder(where)


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


def _entry(key: str, path: Path | str) -> Entry:
    found = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return Entry(key=key, size=found.st_size, tag=f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


def _object(meta: Any) -> Entry:
    return Entry(key=meta["path"], size=meta["size"], tag=meta["e_tag"] or "")


def _size(data: bytes | BinaryIO) -> int:
    if isinstance(data, bytes):
        return len(data)
    place = data.tell()
    size = data.seek(0, os.SEEK_END)
    data.seek(place)
    return size - place
