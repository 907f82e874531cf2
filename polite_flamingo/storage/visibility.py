"""Check that all machines of a job see the same input, models and output folder.

On another machine a path may not exist, lead to another file, or be on a mount that went away, which says nothing about
the rows. So a reader quarantines damaged content (`shards.py`), while an unavailable path ends the job with one line,
and the same command resumes it. Nothing here knows Ray: a job gives its workers the `FileState` of each input as the
driver sees it, and a probe in the output folder (`probe.py`).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_OF_CONTENT = frozenset({None, errno.EINVAL, errno.EFBIG, errno.EOVERFLOW, errno.EISDIR})
"""Errors caused by damaged bytes, such as a seek to before the start."""

_OF_THE_MOUNT = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO,
     errno.ENXIO, errno.ENODEV, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH}
)  # fmt: skip
"""Errors of a disk or mount that fails or went away, which affect any file on it."""


class PathUnavailable(OSError):
    """A path that this machine cannot use. The message is one line: which machine, which path, what to do."""


def path_unavailable(path: Path | str, error: OSError) -> PathUnavailable:
    """Return the error to raise for an `OSError` on a path."""
    why = "it does not exist" if error.errno == errno.ENOENT else (error.strerror or str(error))
    return PathUnavailable(
        f"{path} cannot be read on machine {socket.gethostname()} ({why}); every machine of the job must see it under "
        "this path and be allowed to read it; fix that and run the same command again to resume"
    )


@contextmanager
def reaching(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` of the block into an `PathUnavailable` for this path."""
    try:
        yield
    except PathUnavailable:
        raise  # a bucket's, which says what is wrong
    except OSError as error:
        raise path_unavailable(path, error) from error


def about_content(error: Exception) -> bool:
    """Return whether an error while reading a file is about its bytes, not about reaching it."""
    return not isinstance(error, OSError) or error.errno in _OF_CONTENT


def refuse_broken_mount(path: Path | str, error: Exception) -> None:
    """Raise `PathUnavailable` for an error that all files there would cause; one missing image fails only its row."""
    if isinstance(error, PathUnavailable):
        raise error
    if isinstance(error, OSError) and error.errno in _OF_THE_MOUNT:
        raise path_unavailable(path, error) from None


def reason_in(text: str) -> str | None:
    """Return the message of an `PathUnavailable` in the text of a traceback, as another process sends it; else None."""
    found = re.search(rf"^(?:\w+\.)*{PathUnavailable.__name__}: (.+)$", text, re.MULTILINE)
    return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class FileState:
    """An input as the driver sees it, for a worker to compare with: the file, or one entry of the folder.

    Attributes:
        path: the file, or the entry.
        size: its size in bytes; None if only its presence counts.
    """

    path: str
    size: int | None

    @classmethod
    def at(cls, path: Path) -> FileState:
        """Return what is there; for a folder, its first entry. Raises `PathUnavailable`."""
        with reaching(path):
            if path.is_dir():
                with os.scandir(path) as entries:
                    entry = next(entries, None)
                path = path if entry is None else Path(entry.path)
            found = path.stat()
            return cls(path=str(path.absolute()), size=found.st_size if stat.S_ISREG(found.st_mode) else None)

    def check(self) -> None:
        """Raise `PathUnavailable` if it is missing or another file."""
        with reaching(self.path):
            size = Path(self.path).stat().st_size
        if self.size is not None and size != self.size:
            raise PathUnavailable(
                f"{self.path} has {size:,} bytes on machine {socket.gethostname()} and {self.size:,} where the job was "
                "started: it is another file or has changed; every machine of the job must see the same one"
            )
