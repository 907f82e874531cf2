"""Scratch space of one reader: values that wait to be joined, keys seen so far, and notes for the user.

Captions wait for their image here, and answers for their question. The notes say what was guessed, passed over or
ignored, each with a count. They are printed before anything is written, and kept with the result of the ingest.

It is SQLite's private temporary database: in memory while it is small, on disk (`SQLITE_TMPDIR`, else /tmp) when it is
not, and gone with the process. A dictionary would be faster, but would not fit.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

_BATCH = 10_000


class Scratch:
    """Values by (part, key), in the order of insertion."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -65536")  # 64 MiB before it goes to disk
        self._database.execute("CREATE TABLE item (part TEXT, key TEXT, value TEXT)")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._waiting: list[tuple[str, str, str]] = []
        self._indexed = False
        self._notes: Counter[str] = Counter()

    @property
    def notes(self) -> dict[str, int]:
        """The notes in order of first appearance, each with its count; see `note`."""
        return dict(self._notes)

    def note(self, text: str, times: int = 1) -> None:
        """Note something about the input as a whole: a guess, or what is passed over or ignored.

        Args:
            text: one line, the same for every record it applies to (so never a record's own content).
            times: how many records, files or cells it applies to.
        """
        self._notes[text] += times

    def put(self, part: str, key: str, value: Any) -> None:
        """Store a value of JSON types; a (part, key) may have many."""
        self._waiting.append((part, key, json.dumps(value)))
        if len(self._waiting) >= _BATCH:
            self._flush()

    def get(self, part: str, key: str) -> list[Any]:
        """Return the values of (part, key)."""
        self._index()
        found = self._database.execute("SELECT value FROM item WHERE part = ? AND key = ? ORDER BY rowid", (part, key))
        return [json.loads(value) for (value,) in found]

    def items(self, part: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of a part. Reading and `is_new` are allowed meanwhile; `put` is not."""
        self._flush()
        for key, value in self._database.execute("SELECT key, value FROM item WHERE part = ? ORDER BY rowid", (part,)):
            yield key, json.loads(value)

    def has(self, part: str, key: str) -> bool:
        """Whether (part, key) has a value."""
        self._index()
        query = "SELECT 1 FROM item WHERE part = ? AND key = ? LIMIT 1"
        return self._database.execute(query, (part, key)).fetchone() is not None

    def is_new(self, name: str) -> bool:
        """Whether this is the first call with that name."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO item VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()

    def _index(self) -> None:
        if self._waiting:
            self._flush()
        if not self._indexed:
            self._database.execute("CREATE INDEX item_key ON item (part, key)")
            self._indexed = True
