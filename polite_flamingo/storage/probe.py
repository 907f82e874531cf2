"""Check that every worker of a job reaches its output folder; a worker that does not would lose its results."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.visibility import PathUnavailable

PATIENCE = 5.0
"""Seconds until a file written by one machine must be visible to the others; network file systems cache."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A file of random name and content in the output folder, which every worker of the job must see.

    Attributes:
        path: its absolute path, or its address.
        content: what is in it.
        host: the machine that wrote it.
    """

    path: str
    content: str
    host: str

    def check(self) -> None:
        """Raise `PathUnavailable` if this machine does not see what the driver wrote."""
        deadline = time.monotonic() + PATIENCE
        while (why := self._missing()) is not None:
            if time.monotonic() >= deadline:
                folder = location(self.path).parent
                raise PathUnavailable(
                    f"machine {socket.gethostname()} does not see in {folder} what {self.host} "
                    f"wrote there ({why}): all machines of the job must share the output folder; give another --out"
                )
            time.sleep(0.5)

    def _missing(self) -> str | None:
        try:
            return None if location(self.path).read_text() == self.content else "it has other content"
        except OSError as error:
            return error.strerror or str(error)


@contextmanager
def probing(folder: Location) -> Iterator[Probe]:
    """Write a probe to a folder that only this job uses, and remove it afterwards; also remove those of killed jobs."""
    if folder.local is None:
        place = folder / ".probe"  # a bucket never shows what an earlier job wrote there
    else:
        for stale in folder.local.glob(".probe-*"):
            stale.unlink(missing_ok=True)
        place = location(folder.local.absolute() / f".probe-{secrets.token_hex(8)}")
    probe = Probe(path=str(place), content=secrets.token_hex(16), host=socket.gethostname())
    place.put(probe.content)
    try:
        yield probe
    finally:
        with suppress(OSError):  # the folder may be gone; report the error that ended the job instead
            place.delete()
