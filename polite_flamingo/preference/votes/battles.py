"""Blind pairs to vote on: two texts for the same question, and what machines think of them.

A battle (the arenas' word) is made of what a shard holds, in three kinds:

    rewriting  the rewritten response against the raw annotation, of a build; each turn of a conversation by itself
    pairs      the chosen against the rejected answer of a preference pair (`Sample.rejected`)
    answers    two answers to the same question: of `Sample.candidates`, or of the models of an evaluation

Its id is made of its content, so votes stay with the texts that were voted on, whatever the folder they came from. Who
wrote what never leaves this side of the page.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from polite_flamingo.candidates import Candidate
from polite_flamingo.conversations import parts_of
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.filters.judge import AXES
from polite_flamingo.filters.thresholds import nli_margin
from polite_flamingo.images.digest import digest
from polite_flamingo.preference.pairing import WEIGHTS, mean_ratings, score
from polite_flamingo.sample import Sample

Kind = Literal["rewriting", "pairs", "answers"]
KINDS: tuple[str, ...] = get_args(Kind)

CHOSEN, REJECTED = "chosen", "rejected"
LABEL = "the pair's label"
"""The rater of kind "pairs" that always prefers the chosen answer."""

GOOD_MARK = 3
"""Marks of a build's judge from this on count as good, as in `polite-flamingo agreement`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One text of a battle.

    Attributes:
        name: who wrote it; voters never see it.
        text: what they read.
        number: of the candidate that it is; None for a text that is none.
    """

    name: str
    text: str
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Battle:
    """Two texts to choose from.

    Attributes:
        id: made of the content.
        kind: one of `KINDS`.
        key: key of the sample in its shard.
        turn: number of the turn; None in a sample of one turn.
        sample: the turn as a single-turn sample, with its images and the turns before it.
        first: of kind "rewriting" the rewritten text, else either one, by the id.
        second: the other text.
        margins: rater -> by how much it prefers the first text; below 0 it prefers the second.
        verdicts: rater -> above 0 if it would keep the first text, of kind "rewriting" only: these raters know no
            second text.
    """

    id: str
    kind: Kind
    key: str
    turn: int | None
    sample: Sample
    first: Side
    second: Side
    margins: Mapping[str, float] = field(default_factory=dict)
    verdicts: Mapping[str, float] = field(default_factory=dict)


Scored = tuple[Side, Mapping[str, float]]
"""A text and what machines give it: rater -> score."""


def battles_of(sample: Sample, show: str = "", weights: Sequence[float] = WEIGHTS) -> list[Battle]:
    """Return the battles that a sample holds, without those of two equal or empty texts.

    Args:
        sample: as it stands in a shard.
        show: one of `KINDS`; "" for what the sample holds: a pair, else candidates, else rewritten texts.
        weights: of `ATTRIBUTES` in the score that a judge gives an answer.
    """
    kind = show or ("pairs" if sample.rejected is not None else "answers" if sample.candidates else "rewriting")
    if kind == "rewriting":
        found = (_rewriting(sample, turn, part) for turn, part in parts_of(sample).items() if part.rewritten)
        return [battle for battle in found if battle is not None]
    part = parts_of(sample).get(len(sample.turns) - 1)
    if part is None:  # the last turn is only context
        return []
    if kind == "answers":
        return between(sample, part, [scored(one, weights) for one in sample.candidates])
    if sample.rejected is None or sample.rewritten is None:
        return []
    # Of equal answers the first, as in the audit.
    known = {one.text: scored(one, weights) for one in reversed(sample.candidates)}
    sides = []
    for name, text in ((CHOSEN, sample.rewritten), (REJECTED, sample.rejected)):
        side, scores = known.get(text, (Side(name=name, text=text), {}))
        sides.append((replace(side, name=name), {**scores, LABEL: float(name == CHOSEN)}))
    return between(sample, part, sides, "pairs")


def between(sample: Sample, part: Sample, texts: Iterable[Scored], kind: Kind = "answers") -> list[Battle]:
    """Return every two of the texts as a battle, the one of the lowest id first.

    Args:
        sample: as it stands in its shard.
        part: the turn that the texts answer.
        texts: who wrote what, and the scores of it.
        kind: of the battles.
    """
    found = []
    for one, other in itertools.combinations(texts, 2):
        margins = {rater: given - other[1][rater] for rater, given in one[1].items() if rater in other[1]}
        battle = _battle(sample, part, kind, one[0], other[0], margins)
        if battle is not None:
            found.append(battle)
    return sorted(found, key=lambda battle: battle.id)


def scored(candidate: Candidate, weights: Sequence[float] = WEIGHTS) -> Scored:
    """Return a candidate's text with the score that each judge gives it, as `polite-flamingo pair` would count it."""
    side = Side(name=candidate.model, text=candidate.text, number=candidate.number)
    means = {judge: mean_ratings(candidate.ratings, judge) for judge in {one.judge for one in candidate.ratings}}
    found = {judge: score(mean, weights) for judge, mean in means.items()}
    return side, {judge: value for judge, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _rewriting(sample: Sample, turn: int, part: Sample) -> Battle | None:
    scores, margins, verdicts = part.scores, dict[str, float](), dict[str, float]()
    after, before = _number(scores.get("reward")), _number(scores.get("reward_raw"))
    if after is not None and before is not None:
        margins["reward model"] = after - before
    if scores.get("nli") and math.isfinite(margin := nli_margin(scores["nli"])):
        verdicts["NLI"] = margin
    axes = [axis for axis in AXES if axis != "visual_dependency"]
    marks = [mark for axis in axes if type(mark := scores.get(f"judge_{axis}")) is int]
    if len(marks) == len(axes):
        verdicts["judge"] = min(marks) - GOOD_MARK + 0.5
    sides = Side(name=REWRITTEN, text=part.rewritten or ""), Side(name=RAW, text=part.response)
    return _battle(sample, part, "rewriting", *sides, margins, verdicts, turn)


def _battle(
    sample: Sample,
    part: Sample,
    kind: Kind,
    first: Side,
    second: Side,
    margins: Mapping[str, float],
    verdicts: Mapping[str, float] | None = None,
    turn: int | None = None,
) -> Battle | None:
    """Return the battle, or None where there is nothing to choose from."""
    texts = (first.text.strip(), second.text.strip())
    if not all(texts) or texts[0] == texts[1]:
        return None
    turn = None if len(sample.turns) == 1 else len(sample.turns) - 1 if turn is None else turn
    about = [kind, sample.key, turn, part.question, [digest(image.data) for image in part.images]]
    content = [*about, *sorted([one.name, one.text] for one in (first, second))]
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
    if kind != "rewriting" and turned(f"side/{name}") == (first.name <= second.name):
        # Classes of kappa are "first" and "second": with the better model always first, kappa would say nothing.
        first, second, margins = second, first, {rater: -margin for rater, margin in margins.items()}
    return Battle(
        id=name, kind=kind, key=sample.key, turn=turn, sample=part, first=first, second=second,
        margins=margins, verdicts=verdicts or {},
    )  # fmt: skip


def rank(seed: str) -> str:
    """Return a string to sort by: an order that looks random and depends on nothing but the seed."""
    return hashlib.sha256(seed.encode()).hexdigest()


def turned(seed: str) -> bool:
    """Return true for about half of all seeds."""
    return rank(seed)[0] < "8"


class Choice:
    """Chooses battles while samples go by: as many as wanted, at random, in the memory of those.

    Each sample gives one battle before any gives a second. More wanted of the same samples adds battles and takes none
    away.

    Attributes:
        samples: number of samples that went by.
        without: number of those that gave no battle.
        possible: number of their battles.
    """

    def __init__(self, wanted: int, seed: int):
        """Args: wanted: most battles; seed: of the choice."""
        self.samples = self.without = self.possible = 0
        self._wanted, self._seed = wanted, seed
        self._found: dict[str, tuple[int, str, Battle]] = {}

    def add(self, battles: Iterable[Battle]) -> None:
        """Add what one sample gives."""
        order: Callable[[Battle], str] = lambda battle: rank(f"{self._seed}/choice/{battle.id}")  # noqa: E731
        found = sorted(battles, key=order)
        self.samples += 1
        self.without += not found
        self.possible += len(found)
        self._found |= {battle.id: (turn, order(battle), battle) for turn, battle in enumerate(found)}
        if len(self._found) > 2 * self._wanted:
            self._found = {battle.id: (turn, place, battle) for turn, place, battle in self._best()}

    def chosen(self) -> list[Battle]:
        """Return the battles."""
        return [battle for _, _, battle in self._best()]

    def _best(self) -> list[tuple[int, str, Battle]]:
        return sorted(self._found.values(), key=lambda one: one[:2])[: self._wanted]
