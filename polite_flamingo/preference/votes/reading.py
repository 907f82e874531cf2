"""Read battles from a build, from shards of pairs or candidates, or from the answers of an evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from polite_flamingo.endpoints.answers import without_reasoning
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Answer, Judged, first_turn
from polite_flamingo.evaluation.responses import known_responses
from polite_flamingo.preference.pairing import WEIGHTS
from polite_flamingo.preference.votes.battles import Battle, Choice, Scored, Side, battles_of, between, rank
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.ledger import OutputLayout, read_quarantine, read_scored
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard

ENOUGH = 20
"""Rows per battle that are wanted, after which no further shard is read: of a million rows, a few thousand will do."""

Rows = list[Sample | Quarantined]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to vote on.

    Attributes:
        source: a build's output folder, or anything that names shards (`discovery.shard_names`).
        answers: the output folder of an evaluation of those shards; "" for what the samples hold.
        show: one of `battles.KINDS`; "" for what each sample holds.
        count: most battles.
        seed: of the choice.
        weights: of `ATTRIBUTES` in the score that a judge gives an answer.
    """

    source: str
    answers: str = ""
    show: str = ""
    count: int = 200
    seed: int = 0
    weights: tuple[float, ...] = WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The battles, and the rows they come from: rows = quarantined + without + samples with a battle.

    Attributes:
        battles: as many as wanted, or all.
        shards: number of shards, and of those that were read.
        rows: rows of the shards that were read.
        quarantined: rows that are no samples.
        without: samples without two different texts.
        possible: number of battles that all samples give.
    """

    battles: list[Battle]
    shards: tuple[int, int]
    rows: int
    quarantined: int
    without: int
    possible: int


def gather(wanted: Wanted, say: Callable[[str], None] = lambda line: None) -> Gathered:
    """Read shards until there are enough rows to choose from, and choose.

    Args:
        wanted: what to vote on.
        say: called with one line per kind of file that is passed over.

    Raises:
        ValueError: there are no shards, or the evaluation is not finished; one line.
        PathUnavailable: something cannot be read.
    """
    shards = _shards(wanted.source, say)
    answers = _Answers(wanted.answers) if wanted.answers else None
    choice, counts, read = Choice(wanted.count, wanted.seed), Counter[str](), 0
    for name in sorted(shards, key=lambda name: rank(f"{wanted.seed}/{name}")):
        if counts["rows"] >= ENOUGH * wanted.count:
            break
        read += 1
        told = answers.of(name) if answers else None
        for row in shards[name]():
            counts["rows"] += 1
            if isinstance(row, Quarantined):
                counts["quarantined"] += 1
            else:
                choice.add(battles_of(row, wanted.show, wanted.weights) if told is None else told.battles(row))
    return Gathered(
        battles=choice.chosen(),
        shards=(len(shards), read),
        rows=counts["rows"],
        quarantined=counts["quarantined"],
        without=choice.without,
        possible=choice.possible,
    )


def _shards(source: str, say: Callable[[str], None]) -> Mapping[str, Callable[[], Rows]]:
    """Return name of a shard -> how to read it."""
    layout = OutputLayout(root=source)
    if finished := [*layout.finished()] if layout.run.exists() else []:

        def scored(name: str) -> Callable[[], Rows]:
            return lambda: [*read_scored(layout, name), *read_quarantine(layout, name)]

        return {name: scored(name) for name in finished}

    def plain(place: Location) -> Callable[[], Rows]:
        return lambda: read_shard(place)

    return {name: plain(place) for name, place in shard_names(source, None, say).items()}


class _Answers:
    """The answers of an evaluation's contestants, and what its reward model gave them."""

    def __init__(self, folder: str):
        self._root = location(folder)
        try:
            found = json.loads((self._root / "results.json").read_text())["contestants"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            message = "holds no results of an evaluation; run polite-flamingo evaluate first"
            raise ValueError(f"answers: {folder} {message}") from None
        self._names = [name for name in found if name not in (RAW, REWRITTEN)]
        if len(self._names) < 2:
            raise ValueError(f"answers: {folder} has {len(self._names)} model; two are needed to choose between")

    def of(self, shard: str) -> _ShardAnswers:
        folder = self._root / "responses"
        given: dict[str, Mapping[str, Answer]] = {}
        for name in self._names:
            recorded = folder / name / "recorded.jsonl"
            given[name] = known_responses(recorded if recorded.exists() else folder / name / f"{shard}.jsonl")
        place = self._root / "judged" / f"{shard}.json"
        judged = Judged.from_json(json.loads(place.read_text())["judged"]) if place.exists() else None
        return _ShardAnswers(given, judged)


class _ShardAnswers:
    """The answers to one shard."""

    def __init__(self, given: Mapping[str, Mapping[str, Answer]], judged: Judged | None):
        self._given, self._judged = given, judged
        self._places = {key: place for place, key in enumerate(judged.keys)} if judged else {}

    def battles(self, sample: Sample) -> list[Battle]:
        """Return every two whole answers to a sample as a battle."""
        part = first_turn(sample)
        return between(part, part, list(self._scored(part)))

    def _scored(self, sample: Sample) -> Iterator[Scored]:
        for name, answers in self._given.items():
            answer = answers.get(sample.key)
            if isinstance(answer, str):
                reward = self._reward(name, sample.key)
                scores = {} if reward is None else {"reward model": reward}
                yield Side(name=name, text=without_reasoning(answer)), scores

    def _reward(self, name: str, key: str) -> float | None:
        if self._judged is None or key not in self._places or name not in self._judged.scores:
            return None
        return self._judged.scores[name]["reward"][self._places[key]]
