"""One writer per output: a lock on a disk, a lease in a bucket.

On a disk the lock ends with its process, however that ends. In a bucket nothing ends by itself, so the holder renews an
object by compare-and-swap, and whoever finds it unchanged for a whole lease takes it over. Clocks of machines are never
compared: the one who waits measures with its own. A holder that was stopped for longer (SIGSTOP, a lost network) finds
its lease taken when it wakes, and is told; what it writes until then does no harm, because manifests are only created.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from polite_flamingo.storage.location import Location
from polite_flamingo.storage.visibility import PathUnavailable

LEASE_SECONDS = 60.0
BEATS_PER_LEASE = 4


@contextmanager
def exclusive(root: Location, lost: Callable[[str], None], lease_seconds: float = LEASE_SECONDS) -> Iterator[None]:
    """Hold an output for this process.

    Args:
        root: the output folder, or its place in a bucket.
        lost: called with one line, in a thread, if another process took a lease over or the store is out of reach for
            longer than the lease; the job must stop.
        lease_seconds: how long an unchanged lease keeps others out.

    Raises:
        ValueError: another process holds it; the message says which.
    """
    if root.local is not None:
        root.local.mkdir(parents=True, exist_ok=True)
        with (root.local / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another job is writing to {root}; wait for it, or give another --out") from None
            yield
        return
    lease = _Lease(root / "lock.json", lease_seconds)
    lease.take()
    stop = threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(stop, lost), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        lease.release()


@dataclass(kw_only=True)
class _Holder:
    """Who holds a lease; `beat` makes each renewal another object."""

    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    beat: int = 0

    def to_json(self) -> str:
        return json.dumps(vars(self))


class _Lease:
    """An object that names its holder."""

    def __init__(self, place: Location, seconds: float):
        self._place, self._seconds, self._me, self._tag = place, seconds, _Holder(), ""

    def take(self) -> None:
        """Take the lease, waiting for a whole one if somebody seems to hold it. Raises `ValueError` if he does."""
        if not self._place.create(self._me.to_json()):
            found = self._place.head()
            deadline = time.monotonic() + self._seconds
            while found is not None and time.monotonic() < deadline:
                time.sleep(self._seconds / 10)
                now = self._place.head()
                if now is not None and now.tag != found.tag:
                    raise self._held()
                found = now
            taken = self._place.create(self._me.to_json()) if found is None else self._swap(found.tag)
            if not taken:
                raise self._held()
        found = self._place.head()
        if found is None or json.loads(self._place.read_text())["owner"] != self._me.owner:
            raise self._held()
        self._tag = found.tag

    def renew_until(self, stop: threading.Event, lost: Callable[[str], None]) -> None:
        """Renew the lease several times in its length; end with `lost` when it is gone."""
        renewed = time.monotonic()
        while not stop.wait(self._seconds / BEATS_PER_LEASE):
            self._me.beat += 1
            try:
                if not self._swap(self._tag):
                    return lost(f"another job has taken over {self._place.parent}, because this one did not answer")
                renewed = time.monotonic()
            except PathUnavailable as error:
                if time.monotonic() - renewed > self._seconds:
                    return lost(f"{error}; run the same command again to resume")
        return None

    def release(self) -> None:
        """Give the lease up, unless another holds it by now."""
        try:
            if self._place.head() is not None and json.loads(self._place.read_text())["owner"] == self._me.owner:
                self._place.delete()
        except (PathUnavailable, FileNotFoundError):
            pass  # it runs out by itself

    def _swap(self, tag: str) -> bool:
        new = self._place.swap(self._me.to_json(), tag)
        self._tag = new or self._tag
        return new is not None

    def _held(self) -> ValueError:
        try:
            holder = json.loads(self._place.read_text())
            who = f"process {holder['pid']} on {holder['host']}"
        except (FileNotFoundError, ValueError, KeyError):
            who = "another job"
        return ValueError(f"{who} is writing to {self._place.parent}; wait for it, or give another --out")
