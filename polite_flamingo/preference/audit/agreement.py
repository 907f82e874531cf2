"""Whether the judge agrees with other judges and with people: choices, and ratings attribute by attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.evaluation.agreement import kappa
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, resampled
from polite_flamingo.preference.audit.check import Check, Findings
from polite_flamingo.preference.audit.evidence import Evidence, side_of
from polite_flamingo.preference.audit.margins import mean
from polite_flamingo.preference.audit.people import Side, Vote
from polite_flamingo.preference.audit.readings import Prompt, choices, sign

Row = tuple[int, float, float]
"""Number of what is resampled, and what two raters say of the same thing."""


RATED = "Ratings, with quadratic weights."


def judges(evidence: Evidence) -> Check:
    """Check that the judge chooses as other judges do: kappa of choices, weighted kappa of ratings.

    Only the reference can fail it. Without one another judge warns, since either may be wrong; beside one it is only
    shown.
    """
    settings = evidence.settings
    findings = Findings("judges", settings)
    for other in evidence.others:
        rows = [*_chosen_by_both(evidence, other)]
        if not rows:
            findings.lacks(f"choices between two answers that {evidence.judge} and {other} both make")
            continue
        found = kappa_of(rows, settings.resampling, mirrored=True)
        limit = settings.limits.judges if evidence.reference in ("", other) else None
        findings.add(
            f"choices, with {other}", found, limit, share=False, about=_same(rows), only_warns=not evidence.reference
        )
        findings.draw_estimate("kappas", f"choices, {other}", found)
        for name, rated in _rated_by_both(evidence, other).items():
            findings.draw_estimate("kappas", f"{name}, {other}", kappa_of(rated, settings.resampling))
    if not evidence.others:
        findings.lacks("ratings of the same answers by another judge (polite-flamingo rate, once more)")
    return findings.check()


def _same(rows: list[Row]) -> str:
    share = sum(left == right for _, left, right in rows) / len(rows)
    return f"The same choice in {100 * share:.1f} % of {len(rows):,}."


def kappa_of(rows: list[Row], resampling: Resampling, *, mirrored: bool = False) -> Estimate:
    """Return Cohen's kappa with its interval.

    Args:
        rows: what two raters say.
        resampling: of the interval.
        mirrored: whether the sign of what they say is arbitrary, as in a choice between two answers; each row then
            counts both ways, so chance agreement is exactly a half.
    """
    numbers_N, left_N, right_N = np.array(rows, dtype=float).T

    def both_ways(left_N: np.ndarray, right_N: np.ndarray) -> float:
        return kappa(np.concatenate([left_N, -left_N]), np.concatenate([right_N, -right_N]))

    return resampled(both_ways if mirrored else kappa, (left_N, right_N), resampling, numbers_N)


def _chosen_by_both(evidence: Evidence, other: str) -> Iterator[Row]:
    for number, prompt in enumerate(evidence.prompts):
        theirs = prompt.scores(other)
        for first, second, apart in choices(prompt.scores(evidence.judge)):
            if {first, second} <= theirs.keys():
                signs = sign(apart), sign(theirs[first] - theirs[second])
                if all(signs):
                    yield number, float(signs[0]), float(signs[1])


def _rated_by_both(evidence: Evidence, other: str) -> dict[str, list[Row]]:
    """Return attribute -> ratings of the same answers; means of several readings are rounded."""
    found: dict[str, list[Row]] = {}
    for number, prompt in enumerate(evidence.prompts):
        ours, theirs = prompt.attributes(evidence.judge), prompt.attributes(other)
        for answer in sorted(ours.keys() & theirs.keys()):
            for name in ATTRIBUTES:
                if name in ours[answer] and name in theirs[answer]:
                    pair = round(ours[answer][name]), round(theirs[answer][name])
                    found.setdefault(name, []).append((number, float(pair[0]), float(pair[1])))
    return found


def people(evidence: Evidence) -> Check:
    """Check that people choose and rate as the judge does."""
    settings, labels = evidence.settings, evidence.labels
    findings = Findings("people", settings)
    if not len(labels):
        findings.lacks("people's votes on these answers (--labels; polite-flamingo vote collects them)")
        return findings.check()
    joined = _Joined(evidence)

    def compare(name: str, rows: list[Row], *, choices: bool = False, judged: bool = True) -> None:
        decided = [row for row in rows if row[1] and row[2]] if choices else rows
        if decided:
            found = kappa_of(decided, settings.resampling, mirrored=choices)
            about = _same(decided) if choices else RATED
            if undecided := len(rows) - len(decided):
                about += f" People saw no difference in {undecided:,} more."
            findings.add(name, found, settings.limits.people if judged else None, share=False, about=about)
            findings.draw_estimate("kappas", name, found)

    compare("choices of the judge", joined.with_judge(), choices=True)
    compare("labels of the pairs", joined.with_pairs(), choices=True)
    for attribute, rows in joined.ratings().items():
        compare(attribute, rows)
    compare("people among themselves", joined.among_people(), choices=True, judged=False)
    if kept := joined.kept():
        numbers_N, kept_N = np.array(kept).T
        about = "Pairs whose chosen answer more people prefer; ties and two bad answers count against."
        found = resampled(mean, (kept_N,), settings.resampling, numbers_N)
        findings.add("pairs that people would keep", found, settings.limits.keep, about=about)
    if joined.unknown:
        findings.lacks(f"the answers of {joined.unknown:,} of {len(labels):,} labels")
    return findings.check()


class _Joined:
    """Joins labels with prompts and pairs.

    Attributes:
        unknown: labels of prompts or answers that were not read.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._pairs = {pair.key: pair for pair in evidence.pairs} if evidence.given else {}
        self._prompts = {prompt.key: prompt for prompt in evidence.prompts}
        self._numbers = {key: number for number, key in enumerate(dict.fromkeys([*self._prompts, *self._pairs]))}
        labels = evidence.labels
        self.unknown = sum(self._answers(vote) is None and not self._of_pair(vote) for vote in labels.votes)
        self.unknown += sum(self._answer(one.key, one.answer) is None for one in labels.ratings)

    def _prompt(self, key: str) -> Prompt | None:
        pair = self._pairs.get(key)
        return self._prompts.get(key) or (pair.prompt if pair else None)

    def _answer(self, key: str, side: Side) -> int | None:
        """Return the place among a prompt's answers."""
        pair, prompt = self._pairs.get(key), self._prompt(key)
        if prompt is None:
            return None
        if isinstance(side, int):
            return prompt.numbered(side)
        return pair.answers[side == "rejected"] if pair and pair.answers else None

    def _answers(self, vote: Vote) -> tuple[int, int] | None:
        first, second = self._answer(vote.key, vote.first), self._answer(vote.key, vote.second)
        return None if first is None or second is None else (first, second)

    def _of_pair(self, vote: Vote) -> int:
        pair = self._pairs.get(vote.key)
        return side_of(vote, pair) if pair else 0

    def with_judge(self) -> list[Row]:
        """Return the judge's choice and a person's, of the same answers; the judge's ties are left out."""
        rows = list[Row]()
        for vote in self._evidence.labels.votes:
            answers, prompt = self._answers(vote), self._prompt(vote.key)
            scores: Mapping[int, float] = prompt.scores(self._evidence.judge) if prompt and answers else {}
            if answers and {*answers} <= scores.keys() and (ours := sign(scores[answers[0]] - scores[answers[1]])):
                rows.append((self._numbers[vote.key], float(ours), vote.prefers))
        return rows

    def with_pairs(self) -> list[Row]:
        """Return which side a pair calls better and which a person does."""
        votes = self._evidence.labels.votes
        return [(self._numbers[vote.key], float(side), vote.prefers) for vote in votes if (side := self._of_pair(vote))]

    def ratings(self) -> dict[str, list[Row]]:
        """Return attribute -> the judge's rating and a person's, of the same answers."""
        found: dict[str, list[Row]] = {}
        for one in self._evidence.labels.ratings:
            answer, prompt = self._answer(one.key, one.answer), self._prompt(one.key)
            ours = prompt.attributes(self._evidence.judge).get(answer, {}) if prompt and answer is not None else {}
            for name in one.values.keys() & ours.keys():
                said = float(round(ours[name])), float(one.values[name])
                found.setdefault(name, []).append((self._numbers[one.key], *said))
        return {name: found[name] for name in ATTRIBUTES if name in found}

    def kept(self) -> list[tuple[int, float]]:
        """Return for each pair that people voted on whether more of them prefer its chosen side."""
        sums = Counter[str]()
        for vote in self._evidence.labels.votes:
            if side := self._of_pair(vote):
                sums[vote.key] += round(side * vote.prefers)
        return [(self._numbers[key], float(total > 0)) for key, total in sums.items()]

    def among_people(self) -> list[Row]:
        """Return what each two people chose between the same answers."""
        votes: dict[tuple[str, frozenset[Side]], list[tuple[str, float]]] = {}
        for vote in self._evidence.labels.votes:
            turned = 1 if str(vote.first) < str(vote.second) else -1
            same = votes.setdefault((vote.key, frozenset((vote.first, vote.second))), [])
            same.append((vote.voter, turned * vote.prefers))
        return [
            (number, left, right)
            for number, said in enumerate(votes.values())
            for place, (voter, left) in enumerate(said)
            for other, right in said[place + 1 :]
            if voter != other and left and right
        ]
