"""Answers of an endpoint that are paid for, kept on the output folder until their shard is finished.

    OUT/answers/SHARD.tar/RANDOM.jsonl    some answers, by the SHA-256 of their requests

A shard that is begun again (a killed job, a lost machine) reads them with one listing and asks only for the rest. They
are written a second after they came at the latest, so no more than the answers of that second are asked for twice.
The rewriter's and the judge's lie side by side: their requests differ.
Nothing is appended to: each file is one object, in a bucket too. Whoever commits the shard deletes them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from polite_flamingo.endpoints.answers import Unfinished, ending
from polite_flamingo.storage.location import Location

SECONDS = 1.0
"""Longest time that an answer waits to be written."""

_READERS = 16
_SUFFIX = ".tar"
"""So that the folder of the shard `a` does not contain that of the shard `a/b`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered.

    Attributes:
        text: an `answers.Unfinished` if it was cut.
        model: as the server names it; "" if it does not.
        usage: tokens, by the names of `usage.USED`.
        more: what else a caller keeps of the response, JSON types only.
    """

    text: str
    model: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> dict[str, object]:
        """Convert to JSON types."""
        why = self.text.why if isinstance(self.text, Unfinished) else ""
        return {**asdict(self), "text": str(self.text), "why": why}

    @staticmethod
    def from_record(record: dict) -> Answer:
        """Read what `to_record` wrote."""
        text, more = ending(record["text"], record["why"]), record.get("more", {})  # earlier versions have no `more`
        return Answer(text=text, model=record["model"], usage=record["usage"], more=more)


class AnswerStore:
    """The answers for one shard, as a context: entering reads what is there, leaving writes what is not. Threads may
    share it.

    Args:
        answers: OUT/answers.
        shard: its name.
    """

    def __init__(self, answers: Location, shard: str):
        self._folder = _of_shard(answers, shard)
        self._known: dict[str, Answer] = {}
        self._unwritten: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._writer = threading.Thread(target=self._write_every_second, name="answers", daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> AnswerStore:
        """Read the answers of earlier attempts; damaged ones are asked for again. Raises `PathUnavailable` if the store
        fails.
        """
        damaged = _read_into(self._known, self._folder)
        if damaged:
            print(f"{self._folder}: {damaged} damaged lines; what they answered is asked for again")
        self._writer.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write what is not written yet. Raises what a write raised, unless the block has failed already."""
        self._closed.set()
        self._writer.join()
        if error is None and self._failure:
            raise self._failure

    def get(self, request: str) -> Answer | None:
        """Return the answer to a request, by its digest; None if it must be asked."""
        return self._known.get(request)

    def add(self, request: str, answer: Answer) -> None:
        """Keep an answer. Raises what an earlier write raised: answers that cannot be kept should not be bought."""
        if self._failure:
            raise self._failure
        with self._lock:
            self._known[request] = self._unwritten[request] = answer

    def _write_every_second(self) -> None:
        closed = False
        while not closed:
            closed = self._closed.wait(SECONDS)
            with self._lock:
                taken, self._unwritten = self._unwritten, {}
            if not taken:
                continue
            lines = [json.dumps({"request": key, **answer.to_record()}) + "\n" for key, answer in taken.items()]
            try:
                (self._folder / f"{secrets.token_hex(8)}.jsonl").put("".join(lines))
            except Exception as error:  # raised where the answers are used, and with its traceback
                self._failure = error
                return


def digest(body: bytes) -> str:
    """Return the name of a request among answers."""
    return hashlib.sha256(body).hexdigest()


def read_stored(answers: Location) -> list[Answer]:
    """Return the answers that wait for their shards, each once. Args: answers: OUT/answers."""
    found = list[Answer]()
    for folder in sorted({name.rpartition("/")[0] for name in answers.names(".jsonl")}):
        known = dict[str, Answer]()
        _read_into(known, answers / folder)
        found += known.values()
    return found


def forget(answers: Location, shard: str) -> None:
    """Delete the answers for a shard that is finished. Args: answers: OUT/answers."""
    _of_shard(answers, shard).delete_tree()


def forget_finished(answers: Location, unfinished: Mapping[str, object]) -> None:
    """Delete answers whose shard is finished: their job was killed between its commit and `forget`.

    Args:
        answers: OUT/answers.
        unfinished: the names of the shards that are still to be done.
    """
    for folder in {name.rpartition("/")[0] for name in answers.names(".jsonl")}:
        if folder.removesuffix(_SUFFIX) not in unfinished:
            (answers / folder).delete_tree()


def _of_shard(answers: Location, shard: str) -> Location:
    return answers / f"{shard}{_SUFFIX}"


def _read_into(known: dict[str, Answer], folder: Location) -> int:
    """Add the answers in a folder by the digest of their requests; return how many lines are damaged."""

    def read(name: str) -> bytes:
        try:
            return (folder / f"{name}.jsonl").read_bytes()
        except FileNotFoundError:  # another worker has finished the shard since
            return b""

    damaged = 0
    with ThreadPoolExecutor(_READERS) as threads:
        for data in threads.map(read, folder.names(".jsonl")):
            for line in data.splitlines():
                try:
                    record = json.loads(line)
                    known[record["request"]] = Answer.from_record(record)
                except (ValueError, LookupError, TypeError):
                    damaged += 1
    return damaged
