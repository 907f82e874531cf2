"""A file that grows while others read it, such as a log: appended to on a disk, in a bucket put again as a whole.

A bucket cannot append, so there the whole is put again from time to time: every `PUT_SECONDS`, and less often if
putting takes long, so that it never costs more than a twentieth of the writer's time.
"""

from __future__ import annotations

import time

from polite_flamingo.storage.location import Location

PUT_SECONDS = 2.0
REST = 19
"""Seconds without a put for each second that the last one took."""


class GrowingFile:
    """A file with one writer."""

    def __init__(self, place: Location, data: bytes = b""):
        """Replace what is there. Args: place: of the file. data: its first bytes."""
        place.put(data)
        self._place, self._data = place, bytearray(data)
        self._file = place.local.open("ab", buffering=0) if place.local else None
        self._due = time.monotonic() + PUT_SECONDS

    def write(self, data: bytes) -> None:
        """Append bytes; others see them at once on a disk, and soon in a bucket. Raises `OSError`."""
        if self._file is not None:
            self._file.write(data)
            return
        self._data += data
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Let others see everything that was written. Raises `OSError`."""
        if self._file is None:
            began = time.monotonic()
            self._place.put(bytes(self._data))
            took = time.monotonic() - began
            self._due = began + took + max(PUT_SECONDS, REST * took)

    def close(self) -> None:
        """Flush, and let the file go."""
        self.flush()
        if self._file is not None:
            self._file.close()
