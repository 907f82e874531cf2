"""The audit: every check, its verdict, and the pairs to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from polite_flamingo.preference.audit.agreement import judges, people
from polite_flamingo.preference.audit.blind import blind
from polite_flamingo.preference.audit.check import Check
from polite_flamingo.preference.audit.duplicates import Neighbours, duplicates, leaks
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.length import length
from polite_flamingo.preference.audit.limits import WORST_FIRST, AuditSettings, Verdict
from polite_flamingo.preference.audit.margins import attributes, margins
from polite_flamingo.preference.audit.noise import noise
from polite_flamingo.preference.audit.position import position
from polite_flamingo.preference.audit.suspicious import Suspicion, suspicious

CHECKS: Mapping[str, Callable[[Evidence], Check]] = {
    "margins": margins,
    "attributes": attributes,
    "length": length,
    "position": position,
    "judges": judges,
    "people": people,
    "blind": blind,
    "noise": noise,
}
"""The checks of ratings and pairs, in the order of the page; `duplicates` and `leaks` follow."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A finished audit.

    Attributes:
        checks: all of them, in the order of the page.
        suspicious: the pairs to look at first.
        judge: whose judgement was audited; "" if nobody rated.
        reference: the judge that was taken to be right; "" if it did not rate.
        counts: prompts, answers, pairs, ratings and so on, by name.
        settings: of the audit, with all limits.
    """

    checks: tuple[Check, ...]
    suspicious: tuple[Suspicion, ...]
    judge: str
    reference: str
    counts: Mapping[str, int]
    settings: AuditSettings

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        found = {one.verdict for one in self.checks}
        return next(one for one in WORST_FIRST if one in found)

    def with_verdict(self, verdict: Verdict) -> list[Check]:
        """Return the checks with a verdict."""
        return [one for one in self.checks if one.verdict == verdict]

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {
            "verdict": self.verdict,
            "judge": self.judge,
            "reference": self.reference,
            "counts": dict(self.counts),
            "settings": asdict(self.settings),
            "checks": {one.name: {"verdict": one.verdict, **asdict(one)} for one in self.checks},
            "suspicious": [
                {"key": one.pair.key, "shard": one.pair.shard, "reasons": one.reasons, "weight": round(one.weight, 3)}
                for one in self.suspicious
            ],
        }


def audit(evidence: Evidence, found: Neighbours, *, near: bool) -> Audit:
    """Run every check.

    Args:
        evidence: what is known.
        found: about the questions of pairs.
        near: whether near-duplicates were looked for.
    """
    checks = [check(evidence) for check in CHECKS.values()]
    checks += [duplicates(evidence, found, near=near), leaks(evidence, found, near=near)]
    ratings = [len(reading.scores) for prompt in evidence.prompts for reading in prompt.readings]
    counts = {
        "prompts": len(evidence.prompts),
        "answers": sum(len(prompt.digests) for prompt in evidence.prompts),
        "ratings": sum(ratings),
        "unmatched_ratings": sum(prompt.unmatched for prompt in evidence.prompts),
        "pairs": len(evidence.pairs) if evidence.given else 0,
        "pairs_of_rated_answers": sum(pair.answers is not None for pair in evidence.pairs) if evidence.given else 0,
        "votes": len(evidence.labels.votes),
        "people_ratings": len(evidence.labels.ratings),
        "other_labels": evidence.labels.other,
    }
    return Audit(
        checks=tuple(checks),
        suspicious=tuple(suspicious(evidence, found)),
        judge=evidence.judge,
        reference=evidence.reference,
        counts=counts,
        settings=evidence.settings,
    )
