"""Ratings as the auditor sees them: prompts, and for each the times that a judge read its answers.

A *reading* is one time that a judge rated the answers to a prompt: together, in one order, or each alone. Two readings
by the same judge show what is left to chance, to the order, or to the company of other answers. Ratings are matched
across answers by judge, mode and number of the sample; where one is repeated, by the order in which they were made.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polite_flamingo.candidates import Rating
from polite_flamingo.preference.pairing import WEIGHTS, numbers_of, score
from polite_flamingo.sample import IMAGE_MARK, Image, Sample

_Name = TypeVar("_Name", int, str)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One time that a judge rated the answers to a prompt. Answers go by their place among the candidates.

    Attributes:
        judge: who judged.
        blind: whether the judge saw a black picture instead.
        alone: whether each answer was rated in a request of its own.
        scores: answer -> weighted sum of its ratings.
        places: answer -> its place among those shown.
        values: answer -> attribute -> rating.
    """

    judge: str
    blind: bool
    alone: bool
    scores: Mapping[int, float]
    places: Mapping[int, int]
    values: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question and its rated answers, without their texts.

    Attributes:
        key: of the sample.
        shard: name of the shard that holds it.
        asked: `asked_digest` of its last question.
        pictures: number of its pictures.
        numbers: each answer's `Candidate.number`.
        digests: each answer's `digest`.
        lengths: each answer's length in characters.
        readings: all of them.
        unmatched: ratings that are in no reading: not a number, incomplete, or of an unclear order.
    """

    key: str
    shard: str
    asked: str
    pictures: int
    numbers: tuple[int, ...]
    digests: tuple[str, ...]
    lengths: tuple[int, ...]
    readings: tuple[Reading, ...]
    unmatched: int = 0

    def numbered(self, number: int) -> int | None:
        """Return the place of the answer with a number; None if there is none."""
        return self.numbers.index(number) if number in self.numbers else None

    def read_by(self, judge: str, *, blind: bool = False) -> list[Reading]:
        """Return a judge's readings; those of a black picture only if `blind`."""
        return [one for one in self.readings if one.judge == judge and one.blind == blind]

    def scores(self, judge: str) -> dict[int, float]:
        """Return answer -> mean score over a judge's readings of the real picture."""
        return _means([one.scores for one in self.read_by(judge)])

    def attributes(self, judge: str) -> dict[int, dict[str, float]]:
        """Return answer -> attribute -> mean rating, likewise."""
        found: dict[int, list[Mapping[str, float]]] = {}
        for reading in self.read_by(judge):
            for answer, values in reading.values.items():
                found.setdefault(answer, []).append(values)
        return {answer: _means(values) for answer, values in found.items()}


def _means(tables: Sequence[Mapping[_Name, float]]) -> dict[_Name, float]:
    values: dict[_Name, list[float]] = {}
    for table in tables:
        for name, value in table.items():
            values.setdefault(name, []).append(value)
    return {name: math.fsum(found) / len(found) for name, found in values.items()}


def prompt_of(sample: Sample, shard: str, weights: Sequence[float] = WEIGHTS, *, expected: bool = False) -> Prompt:
    """Return what the auditor keeps of a sample with candidates.

    Args:
        sample: its candidates' ratings are matched into readings.
        shard: name of its shard.
        weights: of `ATTRIBUTES` in a score.
        expected: score by `Rating.expected` where a rating has it.
    """
    slots: dict[tuple[str, bool, bool, int, int], dict[int, Rating]] = {}
    for answer, candidate in enumerate(sample.candidates):
        made = Counter[tuple[str, bool, bool, int]]()
        for rating in candidate.ratings:
            mode = (rating.judge, rating.blind, rating.shown == 1, rating.sample)
            slots.setdefault((*mode, made[mode]), {})[answer] = rating
            made[mode] += 1
    readings = [found for slot, ratings in slots.items() if (found := _reading(slot, ratings, weights, expected))]
    total = sum(len(candidate.ratings) for candidate in sample.candidates)
    return Prompt(
        key=sample.key,
        shard=shard,
        asked=asked_digest(sample.turns[-1].instruction, sample.images),
        pictures=len(sample.images),
        numbers=tuple(candidate.number for candidate in sample.candidates),
        digests=tuple(digest(candidate.text) for candidate in sample.candidates),
        lengths=tuple(len(candidate.text.strip()) for candidate in sample.candidates),
        readings=tuple(readings),
        unmatched=total - sum(len(reading.scores) for reading in readings),
    )


def _reading(
    slot: tuple[str, bool, bool, int, int], ratings: Mapping[int, Rating], weights: Sequence[float], expected: bool
) -> Reading | None:
    judge, blind, alone, _, _ = slot
    places = {answer: rating.place for answer, rating in ratings.items()}
    if not alone and len({*places.values()}) < len(places):
        return None  # two answers in one place: their ratings come from requests with different orders
    scores = {
        answer: found
        for answer, rating in ratings.items()
        if (found := score(numbers_of(rating, expected=expected), weights)) is not None
    }
    if not scores:
        return None
    return Reading(
        judge=judge,
        blind=blind,
        alone=alone,
        scores=scores,
        places={answer: places[answer] for answer in scores},
        values={answer: numbers_of(ratings[answer]) for answer in scores},
    )


def digest(text: str) -> str:
    """Return a short digest of an answer; white space makes no difference."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=12).hexdigest()


def asked_digest(instruction: str, images: Sequence[Image]) -> str:
    """Return a digest of a question and its pictures' bytes; case and white space make no difference."""
    pictures = [hashlib.blake2b(image.data, digest_size=12).hexdigest() for image in images]
    return digest(" ".join([instruction.replace(IMAGE_MARK, " ").casefold(), *pictures]))


def choices(scores: Mapping[int, float]) -> Iterator[tuple[int, int, float]]:
    """Yield each two answers once, with the score of the first less that of the second."""
    answers = sorted(scores)
    for place, first in enumerate(answers):
        for second in answers[place + 1 :]:
            yield first, second, scores[first] - scores[second]


def sign(number: float) -> int:
    """Return -1, 0 or 1; a difference that is only rounding counts as 0."""
    return 0 if abs(number) < _ROUNDING else 1 if number > 0 else -1


_ROUNDING = 1e-9
