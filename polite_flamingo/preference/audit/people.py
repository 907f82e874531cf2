"""People's votes and ratings, as `labels.jsonl` holds them.

A line is one vote between two answers to a prompt, as `polite-flamingo vote` writes it, or one person's ratings of an
answer:

    {"key": "vqa/train/17", "first": 0, "second": 2, "vote": "first", "voter": "ann"}
    {"key": "vqa/train/17", "first": "chosen", "second": "rejected", "vote": "tie", "voter": "ben"}
    {"key": "vqa/train/17", "answer": 0, "voter": "ann", "helpfulness": 3, "correctness": 4}

An answer is named by its number among the candidates, or as the "chosen" or "rejected" side of the pair of this key.
Ratings are whole numbers from 0 to 4, like the judge's. Of two votes by the same voter on the same answers the later
one counts. Other lines, such as those that say whether to keep a rewritten text, are counted and passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polite_flamingo.candidates import ATTRIBUTES, MOST
from polite_flamingo.preference.votes.log import identity
from polite_flamingo.storage.location import location

Side = int | Literal["chosen", "rejected"]

PREFERS: Mapping[str, float] = {"first": 1.0, "second": -1.0, "tie": 0.0, "both_bad": 0.0}
"""What a vote says of the two answers."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A person's choice between two answers. `prefers` is 1 for the first, -1 for the second and 0 for neither."""

    key: str
    first: Side
    second: Side
    prefers: float
    voter: str = ""


@dataclass(frozen=True, kw_only=True)
class PersonRating:
    """A person's ratings of one answer."""

    key: str
    answer: Side
    values: Mapping[str, int]
    voter: str = ""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """All that people said.

    Attributes:
        votes: choices between two answers.
        ratings: ratings of single answers.
        other: lines of another kind, such as the marks that `polite-flamingo agreement` reads.
    """

    votes: tuple[Vote, ...] = ()
    ratings: tuple[PersonRating, ...] = ()
    other: int = 0

    def __len__(self) -> int:
        """Return the number of labels that an audit can use."""
        return len(self.votes) + len(self.ratings)


def read_labels(path: str) -> Labels:
    """Read a file of labels.

    Raises:
        ValueError: the file cannot be read or a line is wrong; the message says which.
    """
    try:
        lines = location(path).read_text().split("\n")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as labels: {error}") from None
    votes: dict[tuple[str, ...], Vote] = {}
    ratings, other = list[PersonRating](), 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = _record(line, where := f"{path}, line {number}")
            if "vote" in record:
                votes[_identity(record)] = _vote(record, where)
            elif "answer" in record:
                ratings.append(_ratings(record, where))
            else:
                other += 1
    return Labels(votes=tuple(votes.values()), ratings=tuple(ratings), other=other)


def _identity(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what only the last line of a voter about the same two answers has."""
    sides = sorted((str(record.get("first")), str(record.get("second"))))
    return (identity(str(record.get("voter", ""))), record["key"], *sides)


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise ValueError(f"{where}: needs a JSON object with the key of a prompt")
    return record


def _vote(record: Mapping[str, Any], where: str) -> Vote:
    if record["vote"] not in PREFERS:
        raise ValueError(f"{where}: vote must be one of {', '.join(PREFERS)}")
    first, second = (_side(record.get(name), f"{where}: {name}") for name in ("first", "second"))
    if first == second:
        raise ValueError(f"{where}: first and second are the same answer")
    prefers = PREFERS[record["vote"]]
    return Vote(key=record["key"], first=first, second=second, prefers=prefers, voter=str(record.get("voter", "")))


def _ratings(record: Mapping[str, Any], where: str) -> PersonRating:
    values = {name: record[name] for name in ATTRIBUTES if name in record}
    for name, value in values.items():
        if type(value) is not int or not 0 <= value <= MOST:
            raise ValueError(f"{where}: {name} must be a whole number from 0 to {MOST}")
    if not values:
        raise ValueError(f"{where}: rates none of {', '.join(ATTRIBUTES)}")
    answer = _side(record["answer"], f"{where}: answer")
    return PersonRating(key=record["key"], answer=answer, values=values, voter=str(record.get("voter", "")))


def _side(value: Any, what: str) -> Side:
    if value == "chosen" or value == "rejected":
        side: Side = value
        return side
    if type(value) is not int or value < 0:
        raise ValueError(f'{what} must be the number of a candidate, "chosen" or "rejected"')
    return value
