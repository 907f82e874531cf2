"""Whether a file that a job has read is still the same: by its size and times where they tell, else by its bytes.

Names tell nothing: every ingest of a table calls its first shard `table-00000`.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from polite_flamingo.shared import out_of_reach

Found = TypeVar("Found")
_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file as it was when it was read. What is no file, such as a folder called `a.tar`, has the digest ""."""

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str

    @classmethod
    def at(cls, path: Path) -> InputFile:
        """What is there. Take it before reading: a file that changes meanwhile is then a changed one ever after.

        Raises:
            OutOfReach: it cannot be read.
        """
        size, mtime_ns, ctime_ns = _stamp(path)
        return cls(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, sha256=_digest(path))

    def is_still_at(self, path: Path) -> bool:
        """Whether it is there unchanged; a copy of other times is. Raises `OutOfReach`.

        The time of change (ctime) counts too: `cp -p` and `touch` set the other one, and tars are often of one size.
        """
        stamp = _stamp(path)
        if stamp == (self.size, self.mtime_ns, self.ctime_ns):
            return True
        return stamp[0] == self.size and _digest(path) == self.sha256


def each(names: Sequence[str], look: Callable[[str], Found]) -> Iterator[tuple[str, Found]]:
    """Names in order with what `look` finds, several at once: on a network's file system each answer takes a while."""

    def part(first: int) -> list[Found]:
        return [look(name) for name in names[first::_THREADS]]

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(part, range(_THREADS)))
    return ((name, parts[number % _THREADS][number // _THREADS]) for number, name in enumerate(names))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise out_of_reach(path, error) from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise out_of_reach(path, error) from error
