"""A store that is only read: hf://datasets/OWNER/NAME/… through Hugging Face's fsspec file system."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, NoReturn

from polite_flamingo.storage.store import Entry, Store
from polite_flamingo.storage.visibility import PathUnavailable

SCHEME = "hf://"


class HubFiles(Store):
    """The files of repositories on a hub, with the token that `hf auth login` or HF_TOKEN gives."""

    url = SCHEME

    @functools.cached_property
    def files(self) -> Any:
        """The fsspec file system."""
        from huggingface_hub import HfFileSystem

        return HfFileSystem()

    def __reduce__(self) -> tuple[Any, ...]:
        return HubFiles, ()

    def head(self, key: str) -> Entry | None:
        """Ask for a file's size and its hash."""
        with _reaching(key):
            try:
                found = self.files.info(key)
            except FileNotFoundError:
                return None
        return _entry(found) if found["type"] == "file" else None

    def get(self, key: str, start: int = 0, size: int | None = None, *, tag: str = "") -> bytes:
        """Read a file, or a range of it. A branch may move meanwhile; name a revision (NAME@REVISION) to pin it."""
        with _reaching(key):
            return bytes(self.files.cat_file(key, start, None if size is None else start + size))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """List the files below a folder."""
        with _reaching(prefix):
            try:
                found = self.files.find(prefix, detail=True)
            except FileNotFoundError:
                return
        yield from (_entry(one) for name, one in found.items() if name != prefix)

    def writer(self, key: str, *, sync: bool = True) -> AbstractContextManager[BinaryIO]:
        """Refuse."""
        self._refuse(key)

    def create(self, key: str, data: bytes) -> bool:
        """Refuse."""
        self._refuse(key)

    def swap(self, key: str, data: bytes, tag: str) -> str | None:
        """Refuse."""
        self._refuse(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Refuse."""
        self._refuse(next(iter(keys), ""))

    def _refuse(self, key: str) -> NoReturn:
        raise PathUnavailable(f"{SCHEME}{key}: {SCHEME} is only read; write to a folder or a bucket")


@contextmanager
def _reaching(key: str) -> Iterator[None]:
    """Turn the errors of the hub into one line; a missing file stays a `FileNotFoundError`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise PathUnavailable(
            f"{SCHEME}{key} cannot be read ({why}); check the address, HF_TOKEN and network"
        ) from error


def _entry(found: dict[str, Any]) -> Entry:
    tag = next((found[name] for name in ("blob_id", "xet_hash", "ETag", "mtime", "created") if found.get(name)), "")
    return Entry(key=found["name"], size=found["size"], tag=str(tag))
