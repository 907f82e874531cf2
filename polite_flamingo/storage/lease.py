"""One writer per output: a lock on a disk, a lease in a bucket.

On a disk the lock ends with its process, however that ends. In a bucket nothing ends by itself, so the holder renews an
object by compare-and-swap, and whoever finds it unchanged for a whole lease takes it over. Clocks of machines are never
compared: the one who waits measures with its own. A holder that was stopped for longer (SIGSTOP, a lost network) finds
its lease taken when it wakes, and is told; what it writes until then does no harm, because manifests are only created.
Nothing of this holds in a store that ignores the conditions of puts, so taking a lease also tries them.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.early_end import cleaning_up
from polite_flamingo.main_thread import raising_in_main_thread
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.visibility import PathUnavailable

LEASE_SECONDS = 60.0
RELEASE_SECONDS = 3.0
"""How long a process that ends early waits for the store: it is in a hurry, and a lease also runs out by itself."""
BEATS_PER_LEASE = 4


@contextmanager
def exclusive(
    root: Path | Location, lost: Callable[[str], None] | None = None, lease_seconds: float = LEASE_SECONDS
) -> Iterator[None]:
    """Hold an output for this process.

    Args:
        root: the output folder, or its place in a bucket.
        lost: called with one line, in a thread, if another process took a lease over or the store is out of reach for
            longer than the lease; the job must stop. By default `PathUnavailable` is raised in the main thread.
        lease_seconds: how long an unchanged lease keeps others out.

    Raises:
        ValueError: another process holds it, and the message says which; or the store cannot tell writers apart.
    """
    root = location(root)
    if root.local is not None:
        root.local.mkdir(parents=True, exist_ok=True)
        with (root.local / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another job is writing to {root}; wait for it, or give another --out") from None
            yield
        return
    lease = Lease(root / "lock.json", lease_seconds)
    lease.take()
    with raising_in_main_thread(PathUnavailable) as end, cleaning_up(lease.release_soon):
        lease.keep(lost or end)
        try:
            yield
        finally:
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


class Lease:
    """An object that names its holder: `attempt` or `take` it, `keep` it renewed, `release` it.

    Raises `ValueError` when it is taken from a store that ignores the conditions of puts.
    """

    def __init__(self, place: Location, seconds: float = LEASE_SECONDS):
        """Name the object, and how long it keeps others out while it does not change."""
        self._place, self._seconds, self._me, self._tag = place, seconds, _Holder(), ""
        self._seen, self._since = "", 0.0
        self._stop, self._thread = threading.Event(), threading.Thread()

    def attempt(self) -> bool:
        """Take the lease if it is free, or if no earlier attempt of a whole lease saw it change; return whether.

        Never waits, so that one thread can watch many leases.
        """
        asked = time.monotonic()
        found = self._place.head()
        if time.monotonic() - asked > self._seconds / BEATS_PER_LEASE:
            self._seen = ""  # the store was away, so its holder could not renew the lease
        if found is None:
            taken = self._place.create(self._me.to_json())
        elif not found.size:  # released
            taken = self._swap(found.tag)
        elif found.tag != self._seen:
            self._seen, self._since = found.tag, time.monotonic()
            return False
        else:
            taken = time.monotonic() - self._since >= self._seconds and self._swap(found.tag)
        found = self._place.head() if taken else None
        if found is None or json.loads(self._place.read_text() or "{}").get("owner") != self._me.owner:
            return False
        self._tag = found.tag
        self._refuse_a_store_without_conditions()
        return True

    def take(self) -> None:
        """Take the lease, waiting for a whole one if somebody seems to hold it. Raises `ValueError` if he does."""
        first = ""
        while not self.attempt():
            if not first:
                wait = f"waiting for {self._seconds:.0f} s to see whether it is alive"
                print(f"{self._holder()} has not released {self._place.parent}; {wait}", file=sys.stderr, flush=True)
            first = first or self._seen
            if self._seen != first:
                raise ValueError(
                    f"{self._holder()} is writing to {self._place.parent}; wait for it, or give another --out"
                )
            time.sleep(self._seconds / 10)

    def keep(self, lost: Callable[[str], None]) -> None:
        """Renew the lease in a thread until it is released; `lost` is called once, with one line, if that fails."""
        self._thread = threading.Thread(target=self._renew, args=(lost,), name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease up, unless another holds it by now. An empty object is free to take."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(self._seconds / BEATS_PER_LEASE)
        if not self._thread.is_alive():  # else the store is out of reach, and the lease runs out by itself
            with suppress(PathUnavailable):  # likewise
                self._place.swap(b"", self._tag)

    def release_soon(self) -> None:
        """Give the lease up if the store answers within `RELEASE_SECONDS`."""
        releasing = threading.Thread(target=self.release, daemon=True)
        releasing.start()
        releasing.join(RELEASE_SECONDS)

    def _renew(self, lost: Callable[[str], None]) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._seconds / BEATS_PER_LEASE):
            self._me.beat += 1
            try:
                if not self._swap(self._tag):
                    return lost(f"another job has taken over {self._place.parent}, because this one did not answer")
                renewed = time.monotonic()
            except PathUnavailable as error:
                if time.monotonic() - renewed > self._seconds:
                    return lost(f"{error}; run the same command again to resume")
        return None

    def _refuse_a_store_without_conditions(self) -> None:
        stale, other = self._tag, _Holder().to_json()
        self._me.beat += 1
        if self._place.create(other) or not self._swap(stale) or self._place.swap(other, stale) is not None:
            raise ValueError(
                f"{self._place.parent} is in a store that ignores the conditions of puts (If-None-Match, If-Match), so "
                "it is refused for more than one writer: use another store, or write to a disk"
            )

    def _swap(self, tag: str) -> bool:
        new = self._place.swap(self._me.to_json(), tag)
        self._tag = new or self._tag
        return new is not None

    def _holder(self) -> str:
        try:
            holder = json.loads(self._place.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return "another job"
