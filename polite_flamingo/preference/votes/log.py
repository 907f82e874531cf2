"""The file of votes: one JSON line per action, appended and synced before the voter is told that it is saved.

Nothing is ever changed in it. Of two lines of the same voter about the same battle the later one counts, and `undo`
takes the earlier one back. A line that a crash cut short was never acknowledged: it is dropped when the file is opened
again. A line names what was voted on, so the file can be read without the shards.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from polite_flamingo.preference.votes.battles import KINDS

Action = Literal["first", "second", "tie", "both_bad", "skip", "undo"]
ACTIONS: tuple[str, ...] = get_args(Action)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a voter did.

    Attributes:
        voter: the name as it was typed first.
        battle: id of the battle.
        action: which text is better, or another of `ACTIONS`.
        left: which text stood on the left, or above: "first" or "second".
        seconds: how long the battle was looked at.
        time: when, in ISO 8601.
        kind: of the battle, as its `key`, `turn`, and the names of its `first` and `second` text.
        first_number: number of the candidate that the first text is; None for other texts.
        second_number: likewise.
    """

    voter: str
    battle: str
    action: Action
    left: str
    seconds: float
    time: str
    kind: str
    key: str
    turn: int | None
    first: str
    second: str
    first_number: int | None = None
    second_number: int | None = None


_WHOLE = (int, type(None))
_TYPES = {"seconds": (int, float), "turn": _WHOLE, "first_number": _WHOLE, "second_number": _WHOLE}
_VALUES: Mapping[str, tuple[str, ...]] = {"action": ACTIONS, "left": ("first", "second"), "kind": KINDS}


class VoteLog:
    """The file, open for appending. Thread-safe.

    Attributes:
        votes: voter (`identity`) -> battle -> the vote that counts, in the order in which they were made.
        damaged: number of lines that could not be read.
    """

    def __init__(self, path: Path):
        """Open the file, or create it. Raises OSError if it cannot be written."""
        self.votes: dict[str, dict[str, Vote]] = {}
        self.damaged = 0
        self._lock = threading.Lock()
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                self._count(_parsed(line))
            except (ValueError, TypeError, RecursionError):
                self.damaged += 1

    def append(self, vote: Vote) -> None:
        """Write a vote to the disk, then count it.

        Raises:
            OSError: it could not be written, and nothing of it is in the file.
        """
        # A model's name may hold half of a surrogate pair, which becomes an escape of JSON.
        line = json.dumps(asdict(vote), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):  # a disk that fills up takes a part first
                    written += self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(end)
                raise
            self._count(vote)

    def of(self, voter: str) -> dict[str, Vote]:
        """Return the votes of a voter that count, the latest last."""
        with self._lock:
            return dict(self.votes.get(identity(voter), {}))

    def all(self) -> list[Vote]:
        """Return all votes that count."""
        with self._lock:
            return [vote for votes in self.votes.values() for vote in votes.values()]

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _count(self, vote: Vote) -> None:
        votes = self.votes.setdefault(identity(vote.voter), {})
        votes.pop(vote.battle, None)
        if vote.action != "undo":
            votes[vote.battle] = vote


def identity(voter: str) -> str:
    """Return what tells voters apart: "Ann" on a phone is "ann" on a keyboard."""
    return voter.casefold()


def _parsed(line: bytes) -> Vote:
    record: Any = json.loads(line)
    if not isinstance(record, dict):
        raise TypeError("no object")
    vote = Vote(**{one.name: record[one.name] for one in fields(Vote) if one.name in record})
    for name, value in asdict(vote).items():
        if not isinstance(value, _TYPES.get(name, str)) or value not in _VALUES.get(name, (value,)):
            raise ValueError(name)
    return vote
