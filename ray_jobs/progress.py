"""Show the progress of a job: first what it is doing, then rows, and the time left once it can be estimated.

Starting Ray and loading models take a minute in which no row is finished. So the rate is measured from the first
finished row, and no estimate is given before a tenth of the shards is done. A terminal gets a bar; anything else (a
log, a submitted job) gets a line for each phase, for the first rows, for the end, and one per minute in between.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ray_jobs.background import repeating

SETTLED = 10.0
"""Seconds after the first finished row before a rate is shown."""

TENTH = 0.1
EVERY = 60.0
"""Seconds between two lines of a log."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 shard, 2 shards."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def phase(text: str) -> None:
    """Print what the job is doing before there is anything to count."""
    print(f"{text} …", file=sys.stderr, flush=True)


@dataclass(kw_only=True)
class Pace:
    """Counts finished rows and estimates rate and time left. It reads no clock: callers pass the time.

    Attributes:
        shards: total number.
        waiting: what to show until the first row is done.
    """

    shards: int
    waiting: str = "loading models"
    shards_done: int = 0
    rows_committed: int = 0
    rows_seen: int = 0
    first: tuple[float, int] | None = None

    def see(self, now: float, rows_in_work: int) -> None:
        """Update the number of rows done in unfinished shards; the total never goes down."""
        self.rows_seen = max(self.rows_seen, self.rows_committed + rows_in_work)
        if self.first is None and self.rows_seen:
            self.first = now, self.rows_seen

    def advance(self, now: float, shards: int, rows: int) -> None:
        """Add finished shards."""
        self.shards_done += shards
        self.rows_committed += rows
        self.see(now, 0)

    def rate(self, now: float) -> float | None:
        """Return rows per second since the first row; None while it is too early."""
        if self.first is None or now - self.first[0] < SETTLED or self.rows_seen <= self.first[1]:
            return None
        return (self.rows_seen - self.first[1]) / (now - self.first[0])

    def left(self, now: float) -> float | None:
        """Return the seconds left if the remaining shards are like the finished ones; None while it is too early."""
        rate = self.rate(now)
        if rate is None or not self.shards_done or self.shards_done < TENTH * self.shards:
            return None
        total = self.rows_committed / self.shards_done * self.shards
        return max(0.0, total - self.rows_seen) / rate

    def words(self, now: float) -> str:
        """Return what to show beside the number of shards."""
        if not self.rows_seen and self.shards_done < self.shards:
            return self.waiting if not self.shards_done else ""
        said = [counted(self.rows_seen, "row")]
        if rate := self.rate(now):
            said.append(f"{rate:.3g} rows/s" if rate < 100 else f"{rate:,.0f} rows/s")
        if self.shards_done < self.shards and (left := self.left(now)) is not None:
            said.append(f"about {duration(left)} left")
        return ", ".join(said)


def duration(seconds: float) -> str:
    """Format a duration: 40 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(kw_only=True)
class Lines:
    """Decides when a log gets its next line."""

    said: float = -EVERY
    started: bool = False
    ended: bool = False

    def due(self, now: float, pace: Pace) -> bool:
        """Return whether a line is due; if so, count it as printed."""
        first = not self.started and pace.rows_seen > 0
        end = pace.shards_done == pace.shards
        if self.ended or not (first or end or now - self.said >= EVERY):
            return False
        self.said, self.started, self.ended = now, pace.rows_seen > 0, end
        return True


@contextmanager
def progress(
    shards: int, rows_in_work: Callable[[], int], waiting: str = "loading models", every: float = 1.0
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar over shards that also counts rows, or lines without a terminal; yield `advance(shards, rows)`.

    Args:
        shards: total number.
        rows_in_work: returns the rows done in unfinished shards, so that large shards show progress.
        waiting: what to show until the first row is done.
        every: seconds between two calls of `rows_in_work`.
    """
    pace, lock = Pace(shards=shards, waiting=waiting), threading.Lock()
    show, close = (_bar if sys.stderr.isatty() else _lines)(pace)

    def watch() -> None:
        found = rows_in_work()
        with lock:
            pace.see(time.monotonic(), found)
            show()

    def advance(shards: int, rows: int) -> None:
        with lock:
            pace.advance(time.monotonic(), shards, rows)
            show()

    show()
    try:
        with repeating(watch, every):
            yield advance
    finally:
        close()


def bar(total: float, form: str, waiting: str = "") -> Any:
    """Return a tqdm bar on a terminal; elsewhere one that prints lines: the first, one per minute, the last.

    Args:
        total: the final count.
        form: tqdm's `bar_format`, with "|{bar}|" in it.
        waiting: what the job does until there is progress.
    """
    kind = tqdm if sys.stderr.isatty() else _Log
    return kind(total=total, bar_format=form, postfix=waiting, dynamic_ncols=True, mininterval=0.5)


class _Log(tqdm):  # type: ignore[misc]
    """A tqdm bar that prints lines to a log."""

    said = -EVERY
    line = ""

    def __init__(self, postfix: str, **options: Any):
        """Start, discarding what tqdm itself would draw."""
        self.waiting = postfix
        super().__init__(file=io.StringIO(), **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if the last one is a minute old or this is the end."""
        ended = pos == 0 or self.n >= self.total
        form = {**self.format_dict, "bar_format": self.bar_format.replace("|{bar}|", "")}
        line = self.format_meter(**form).strip() if self.n or not self.waiting else f"{self.waiting} …"
        if line != self.line and (ended or time.monotonic() - self.said >= EVERY):
            self.said, self.line = time.monotonic(), line
            print(line, file=sys.stderr, flush=True)

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Print an extra line."""
        print(s, file=file or sys.stderr, end=end, flush=True)


def _bar(pace: Pace) -> tuple[Callable[[], None], Callable[[], None]]:
    shown = bar(pace.shards, "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} shards, {elapsed}{postfix}")

    def show() -> None:
        shown.set_postfix_str(pace.words(time.monotonic()), refresh=False)
        shown.update(pace.shards_done - shown.n)
        shown.refresh()

    return show, shown.close


def _lines(pace: Pace) -> tuple[Callable[[], None], Callable[[], None]]:
    lines, began = Lines(), time.monotonic()

    def show() -> None:
        now = time.monotonic()
        if lines.due(now, pace):
            words = pace.words(now)
            done = f"{pace.shards_done:,} of {counted(pace.shards, 'shard')} after {duration(now - began)}"
            started = pace.rows_seen or pace.shards_done
            waited = f" ({duration(now - began)})" if now - began >= 1 else ""
            print(f"{done}: {words}" if started else f"{words} …{waited}", file=sys.stderr, flush=True)

    return show, lambda: None
