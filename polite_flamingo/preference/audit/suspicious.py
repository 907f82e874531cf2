"""The pairs that a person should look at first, each with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from polite_flamingo.preference.audit.duplicates import Neighbours, contradicted, is_flawed
from polite_flamingo.preference.audit.evidence import AuditedPair, Evidence, side_of
from polite_flamingo.preference.audit.readings import sign

TIMES_LONGER = 2.0
"""A side this many times longer than the other is named where the ratings are close."""

LEAST_WEIGHT = 1.0
"""Pairs with less weight are not shown."""


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A pair, why it is suspicious, and by how much; the weights order the gallery and mean nothing else."""

    pair: AuditedPair
    reasons: tuple[str, ...]
    weight: float


def suspicious(evidence: Evidence, found: Neighbours) -> list[Suspicion]:
    """Return the most suspicious pairs, at most as many as the settings show."""
    against, against_people = contradicted(evidence), _people(evidence)
    listed = list[Suspicion]()
    for pair in evidence.pairs:
        reasons = [*_reasons(pair, evidence), *_people_say(against_people.get(pair.key, Counter()))]
        if evidence.given and (pair.question, pair.sides) in against:
            reasons.append((2.0, "another pair says the opposite"))
        if pair.asked in found.leaked:
            reasons.append((3.0, "its question stands in an evaluation set"))
        elif pair.asked in found.near_leaked:
            reasons.append((1.0, "nearly the same question stands in an evaluation set"))
        weight = sum(weight for weight, _ in reasons)
        if weight >= LEAST_WEIGHT:
            listed.append(Suspicion(pair=pair, reasons=tuple(reason for _, reason in reasons), weight=weight))
    return sorted(listed, key=lambda one: (-one.weight, one.pair.key))[: evidence.settings.shown]


def _reasons(pair: AuditedPair, evidence: Evidence) -> Iterator[tuple[float, str]]:
    """Yield weight and words of what speaks against a pair."""
    if is_flawed(pair.sides, pair.lengths):
        yield 5.0, "its sides are equal, or one is empty"
    margin = pair.margin(evidence.judge)
    if margin is not None and margin < 0:
        yield 3.0, f"{evidence.judge} rates the rejected answer {-margin:.3g} higher"
    trusted = pair.margin(evidence.reference) if evidence.reference else None
    if trusted is not None and trusted < 0:
        yield 3.0, f"{evidence.reference} rates the rejected answer {-trusted:.3g} higher"
    elif trusted is not None and not sign(trusted):
        yield 0.8, f"{evidence.reference} sees no difference"
    yield from _readings(pair, evidence)
    longest, shortest = max(pair.lengths), min(pair.lengths)
    if margin is not None and abs(margin) < evidence.settings.margin and longest >= TIMES_LONGER * max(shortest, 1):
        side = "longer" if pair.lengths[0] > pair.lengths[1] else "shorter"
        yield 1.0, f"ratings are close, and the chosen answer is {longest / max(shortest, 1):.1f} times {side}"


def _readings(pair: AuditedPair, evidence: Evidence) -> Iterator[tuple[float, str]]:
    """Yield what the judge's single readings say, with the picture and without."""
    if pair.prompt is None or pair.answers is None:
        return
    chosen, rejected = pair.answers
    for blind in (False, True):
        readings = [one.scores for one in pair.prompt.read_by(evidence.judge, blind=blind)]
        signs = [sign(one[chosen] - one[rejected]) for one in readings if {chosen, rejected} <= one.keys()]
        if not blind and len(signs) > 1 and (against := signs.count(-1)):
            yield 2 * against / len(signs), f"{against} of {len(signs)} readings prefer the rejected answer"
        if blind and signs and pair.prompt.pictures and set(signs) == {1}:
            yield 0.4, "the choice is the same with a black picture"


def _people(evidence: Evidence) -> dict[str, Counter[float]]:
    """Return key -> what people prefer: 1 for the chosen side, -1 for the rejected one."""
    pairs = {pair.key: pair for pair in evidence.pairs}
    found: dict[str, Counter[float]] = {}
    for vote in evidence.labels.votes:
        if (pair := pairs.get(vote.key)) and (side := side_of(vote, pair)):
            found.setdefault(vote.key, Counter())[side * vote.prefers] += 1
    return found


def _people_say(votes: Counter[float]) -> Iterator[tuple[float, str]]:
    if votes[-1.0] > votes[1.0]:
        yield 3.0, f"{votes[-1.0]} of {votes.total()} people prefer the rejected answer"
