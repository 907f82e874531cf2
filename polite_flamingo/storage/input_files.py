"""Check that a file which a job has read is still the same, by its size and times, or else by its bytes.

Names prove nothing: every ingest of a table calls its first shard `table-00000`.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from polite_flamingo.storage.visibility import reaching


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file as it was when it was read. Anything that is not a file, such as a folder `a.tar`, has the digest ""."""

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str

    @classmethod
    def at(cls, path: Path) -> InputFile:
        """Record the file. Call this before reading it, so that a change during the read counts as a change.

        Raises:
            PathUnavailable: it cannot be read.
        """
        size, mtime_ns, ctime_ns = _stamp(path)
        return cls(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, sha256=_digest(path))

    def is_still_at(self, path: Path) -> bool:
        """Return whether the file has the same bytes. Raises `PathUnavailable`.

        The same size and times, ctime included, are taken for the same bytes: `cp -p` and `touch` set mtime, and many
        tars share a size. If only the size is the same, the digest decides.
        """
        stamp = _stamp(path)
        if stamp == (self.size, self.mtime_ns, self.ctime_ns):
            return True
        return stamp[0] == self.size and _digest(path) == self.sha256


def _stamp(path: Path) -> tuple[int, int, int]:
    with reaching(path):
        found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path) -> str:
    with reaching(path):
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
