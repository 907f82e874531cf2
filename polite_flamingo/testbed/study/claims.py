"""Claims, what a study found about each, and the verdict.

A verdict is computed from the interval alone, and from a margin that was fixed before anything was run: effects of at
most the margin count as none.

    no effect   the whole interval lies within the margin, on both sides
    shown       the whole interval is on the claimed side
    disagrees   the whole interval is on the other side
    open        none of these: more seeds would decide

A claim that nothing is lost, or gained, is shown if the whole interval stays below the margin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polite_flamingo.testbed.study.measures import Measure, Spread

Verdict = Literal["shown", "no effect", "disagrees", "open"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper.

    Attributes:
        key: stable, for links.
        text: the claim in a sentence.
        paper: the paper's evidence, with its own figures.
        what: the deciding number, in words.
        measure: unit, digits and margin of the number.
        sign: 1 if the claim is that the number is above `against`, -1 if below, 0 if it is at most the margin.
        needs: roles and generations that the number is computed from.
        number: computes the number from the results.
        against: what the number is compared with.
    """

    key: str
    text: str
    paper: str
    what: str
    measure: Measure
    sign: Literal[-1, 0, 1]
    needs: frozenset[str]
    number: Callable[[Any], Spread]
    against: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what was measured.

    Attributes:
        claim: the claim.
        spread: the measured number.
        verdict: the verdict from its interval.
        agreeing: number of seeds whose own mean is on the claimed side.
    """

    claim: Claim
    spread: Spread
    verdict: Verdict
    agreeing: int


def findings(claims: Sequence[Claim], results: Any, there: Collection[str]) -> list[Finding]:
    """Return a finding for every claim that can be tested.

    Args:
        claims: in the order of the paper's story.
        results: of the study, as the claims' `number` takes them.
        there: what the results have (roles, generations); claims that need more are left out.
    """
    found = []
    for claim in claims:
        if claim.needs <= {*there}:
            spread = claim.number(results)
            agreeing = sum(_on_its_side(claim, one, one) for one in spread.seeds)
            found.append(
                Finding(claim=claim, spread=spread, verdict=verdict(claim, spread.low, spread.high), agreeing=agreeing)
            )
    return found


def verdict(claim: Claim, low: float | None, high: float | None) -> Verdict:
    """Return what an interval says about a claim; without an interval it is open."""
    if low is None or high is None:
        return "open"
    if claim.sign and all(abs(end - claim.against) <= claim.measure.margin for end in (low, high)):
        return "no effect"
    if _on_its_side(claim, low, high):
        return "shown"
    opposite = low > claim.measure.margin if claim.sign == 0 else _beyond(-claim.sign, claim.against, low, high)
    return "disagrees" if opposite else "open"


def _on_its_side(claim: Claim, low: float, high: float) -> bool:
    if claim.sign == 0:
        return high <= claim.measure.margin
    return _beyond(claim.sign, claim.against, low, high)


def _beyond(sign: int, against: float, low: float, high: float) -> bool:
    return min(sign * (low - against), sign * (high - against)) > 0
