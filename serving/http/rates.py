"""Rate limits: a token bucket and a count of open requests for each client.

The caller passes times in whole nanoseconds, so announced waits are exact and tests need no sleep. Nothing is shared
between processes: each ingress replica counts for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


class Bucket:
    """Holds a minute's worth of requests, and is refilled steadily.

    A burst of a whole minute's requests is let in at once; after that, one per interval. The only state is the time at
    which the bucket would be full again (the "generic cell rate algorithm"), so nothing has to refill it.
    """

    __slots__ = ("_full_at", "_interval", "limit")

    def __init__(self, limit: int):
        """Args: limit: requests per minute, at least 1."""
        if limit < 1:
            raise ValueError(f"a bucket for {limit} requests a minute lets nobody in")
        self.limit = limit
        self._interval = -(-MINUTE // limit)  # rounded up: never more than was promised
        self._full_at = 0

    def take(self, now: int) -> int:
        """Take one request. Returns 0, or the nanoseconds until there is one; then nothing is taken."""
        full_at = max(self._full_at, now)
        wait = full_at - now - self._interval * (self.limit - 1)
        if wait > 0:
            return wait
        self._full_at = full_at + self._interval
        return 0

    def left(self, now: int) -> int:
        """Requests that would be let in now."""
        return self.limit - -(-self.until_full(now) // self._interval)

    def until_full(self, now: int) -> int:
        """Nanoseconds."""
        return max(0, self._full_at - now)


@dataclass(slots=True)
class Account:
    """What a client has open, and its bucket.

    Attributes:
        bucket: None where there is no limit.
        at_once: requests that may be open; 0 for no limit.
        open: requests.
    """

    bucket: Bucket | None
    at_once: int
    open: int = 0

    def set_limits(self, requests_per_minute: int, at_once: int) -> None:
        """Update the limits; a new rate starts with a full bucket. 0 means no limit."""
        self.at_once = at_once
        if (self.bucket.limit if self.bucket else 0) != requests_per_minute:
            self.bucket = Bucket(requests_per_minute) if requests_per_minute else None


def duration(nanoseconds: int) -> str:
    """As OpenAI's headers write it: "6m0s", "1.5s", "20ms"; rounded up to milliseconds."""
    milliseconds = -(-nanoseconds // 1_000_000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds
