"""Pairs that repeat or contradict others, and questions that also stand in an evaluation set.

Equal questions are found by digest. Nearly equal ones, about pictures that look the same, are found as in a selection
(`near_duplicates`): among the distinct questions of the pairs first; those that have no earlier neighbour there, but
have one as soon as the evaluation sets stand before them, are leaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polite_flamingo.near_duplicates.find import find
from polite_flamingo.preference.audit.check import Check, Findings, counted
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.readings import asked_digest
from polite_flamingo.sample import Image, Sample, Turn, unmarked
from polite_flamingo.storage.location import Location, location

NEAR = "rensa and imagehash, which find near-duplicates (pip install polite-flamingo-on-ray[filters])"


@dataclass(kw_only=True)
class Questions:
    """The distinct questions of a set of samples, with signatures on disk where near ones are wanted.

    Attributes:
        name: of the set; sets are compared in the order of their names.
        folder: of signature files, on this machine's disk; None if only equal questions count.
        digests: of the questions, in the order of the files.
        files: signature files, as `find` takes them.
        lacking: whether signatures could not be made, for want of a library.
    """

    name: str
    folder: Path | None
    digests: dict[str, None] = field(default_factory=dict)
    files: list[tuple[str, Location, int]] = field(default_factory=list)
    lacking: bool = False

    def add(self, asked: Iterable[tuple[str, tuple[Image, ...]]]) -> None:
        """Add questions with their pictures, such as those of one shard."""
        new = list[Sample]()
        for instruction, images in asked:
            found = asked_digest(instruction, images)
            if found not in self.digests:
                self.digests[found] = None
                turn = Turn(instruction=unmarked(instruction).strip(), response="")
                new.append(Sample(key=found, dataset="", task="text", turns=(turn,), images=images))
        if self.folder is not None and new and not self.lacking:
            self._sign(new, self.folder)

    def _sign(self, samples: Sequence[Sample], folder: Path) -> None:
        try:
            from polite_flamingo.near_duplicates.signatures import sign

            data = sign(samples).encode()
        except ModuleNotFoundError:
            self.lacking = True
            return
        name = f"{self.name}-{len(self.files):06d}"
        file = location(folder / f"{name}.npz")
        file.put(data)
        self.files.append((name, file, len(samples)))


def questions_of(sample: Sample) -> list[tuple[str, tuple[Image, ...]]]:
    """Return all questions of an evaluation sample, each with the sample's pictures."""
    return [(turn.instruction, sample.images) for turn in sample.turns]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What was found about the questions of pairs.

    Attributes:
        near: digests of questions that nearly repeat an earlier one.
        leaked: digests of questions that stand in an evaluation set.
        near_leaked: digests of those that stand there in nearly the same words.
        compared: number of distinct questions of the evaluation sets.
    """

    near: frozenset[str] = frozenset()
    leaked: frozenset[str] = frozenset()
    near_leaked: frozenset[str] = frozenset()
    compared: int = 0


def neighbours(pairs: Questions, evaluation: Questions, near_text: float, scratch: Path) -> Neighbours:
    """Compare the questions of pairs with each other and with those of evaluation sets.

    Args:
        pairs: questions of the pairs.
        evaluation: questions of the evaluation sets; its name sorts before that of the pairs.
        near_text: similarity from which two questions are the same.
        scratch: a folder on this machine's disk for temporary files; its contents are deleted.
    """
    leaked = frozenset(pairs.digests.keys() & evaluation.digests.keys())
    near = _near(pairs, [], near_text, scratch)
    beside = _near(pairs, evaluation.files, near_text, scratch) if evaluation.files else frozenset[str]()
    return Neighbours(
        near=near, leaked=leaked, near_leaked=beside - near - leaked, compared=len(evaluation.digests)
    )  # fmt: skip


def _near(
    pairs: Questions, before: Sequence[tuple[str, Location, int]], near_text: float, scratch: Path
) -> frozenset[str]:
    """Return the questions of pairs that are near to an earlier one; those of `before` are earlier."""
    if not pairs.files:
        return frozenset()
    found = find([*before, *pairs.files], scratch=scratch)
    scores = [one for name, _, _ in pairs.files for one in found.of(name)]
    return frozenset(digest for digest, one in zip(pairs.digests, scores, strict=True) if one["near_text"] >= near_text)


def duplicates(evidence: Evidence, found: Neighbours, *, near: bool) -> Check:
    """Check that pairs have two different sides, and neither repeat nor contradict each other.

    Args:
        evidence: with the pairs.
        found: about their questions.
        near: whether near-duplicates were looked for.
    """
    limits, pairs = evidence.settings.limits, evidence.pairs
    findings = Findings("duplicates", evidence.settings)
    if evidence.given:
        flawed = sum(is_flawed(pair.sides, pair.lengths) for pair in pairs)
        findings.add("equal or empty sides", counted(flawed, len(pairs)), limits.sides, whole=True)
        repeats = len(pairs) - len({(pair.question, pair.sides) for pair in pairs})
        findings.add("repeats an earlier pair", counted(repeats, len(pairs)), limits.repeated, whole=True)
        against = sum(contradicted(evidence).values())
        findings.add("contradicts another pair", counted(against, len(pairs)), limits.contradictions, whole=True)
    else:
        findings.lacks("pairs (--pairs)")
    if near:
        share = counted(len(found.near), len({pair.asked for pair in pairs}))
        about = "Nearly the same question about pictures that look the same."
        findings.add("question nearly repeats an earlier one", share, limits.repeated, about=about, whole=True)
    else:
        findings.lacks(NEAR)
    return findings.check()


def leaks(evidence: Evidence, found: Neighbours, *, near: bool) -> Check:
    """Check that no question also stands in an evaluation set; see `duplicates`."""
    findings, limits = Findings("leaks", evidence.settings), evidence.settings.limits
    if not found.compared:
        findings.lacks("evaluation sets (--evaluation)")
        return findings.check()
    total = len({pair.asked for pair in evidence.pairs})
    about = f"Of {total:,} different questions, compared with {found.compared:,}."
    exact = counted(len(found.leaked), total)
    findings.add("question stands in an evaluation set", exact, limits.leaks, about=about, whole=True)
    if near:
        about = "Nearly the same question about pictures that look the same."
        close = counted(len(found.near_leaked), total)
        findings.add(
            "question nearly stands there", close, limits.leaks, about=about, whole=True, only_warns=True
        )  # fmt: skip
    else:
        findings.lacks(NEAR)
    return findings.check()


def is_flawed(sides: tuple[str, str], lengths: tuple[int, int]) -> bool:
    """Whether two sides are equal, or one is empty."""
    return sides[0] == sides[1] or not all(lengths)


def contradicted(evidence: Evidence) -> Counter[tuple[str, tuple[str, str]]]:
    """Return question and sides of the pairs that another pair turns round, with their numbers."""
    seen = Counter((pair.question, pair.sides) for pair in evidence.pairs)
    return Counter({(asked, (a, b)): n for (asked, (a, b)), n in seen.items() if a != b and (asked, (b, a)) in seen})
