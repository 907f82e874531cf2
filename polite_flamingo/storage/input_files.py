"""Check that a file which a job has read is still the same, by its size and times, or else by its bytes.

Names prove nothing: every ingest of a table calls its first shard `table-00000`. In a bucket the ETag decides, which a
listing gives without a request per file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.visibility import reaching


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file as it was when it was read. Anything that is not a file, such as a folder `a.tar`, has the digest "".

    Attributes:
        size: in bytes.
        mtime_ns: on a disk, when its content was changed; 0 in a bucket.
        ctime_ns: on a disk, when anything about it was changed; 0 in a bucket.
        sha256: of its bytes on a disk; "" in a bucket, where nobody reads a whole file to compare it.
        tag: in a bucket, its ETag; "" on a disk.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str
    tag: str = ""

    @classmethod
    def at(cls, path: Path | Location) -> InputFile:
        """Record the file. Call this before reading it, so that a change during the read counts as a change.

        Raises:
            PathUnavailable: it cannot be read.
        """
        place = location(path)
        size, mtime_ns, ctime_ns, tag = _stamp(place)
        sha256 = "" if place.local is None else _digest(place)
        return cls(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, tag=tag, sha256=sha256)

    def is_still_at(self, path: Path | Location) -> bool:
        """Return whether the file has the same bytes; from bucket to bucket, the same ETag. Raises `PathUnavailable`.

        The same size and times, ctime included, are taken for the same bytes: `cp -p` and `touch` set mtime, and many
        tars share a size. If only the size is the same, the digest decides, also in a bucket to which input and output
        were copied from a disk. On a disk to which they were copied from a bucket, it is the MD5: the ETag is one if
        the object was sent in one request.
        """
        place = location(path)
        stamp = _stamp(place)
        if stamp == (self.size, self.mtime_ns, self.ctime_ns, self.tag):
            return True
        if stamp[0] != self.size:
            return False
        if not self.tag:
            return _digest(place) == self.sha256
        return place.local is not None and f'"{_digest(place, "md5")}"' == self.tag


def size_of(place: Location) -> int:
    """Return the bytes of a file. Raises `PathUnavailable`."""
    return _stamp(place)[0]


def _stamp(place: Location) -> tuple[int, int, int, str]:
    with reaching(str(place)):
        if place.local is not None:
            found = place.local.stat()
            return found.st_size, found.st_mtime_ns, found.st_ctime_ns, ""
        entry = place.listed or place.head()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
        return entry.size, 0, 0, entry.tag


def _digest(place: Location, algorithm: str = "sha256") -> str:
    with reaching(str(place)):
        if place.local is not None and not stat.S_ISREG(place.local.stat().st_mode):
            return ""
        with place.open() as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
