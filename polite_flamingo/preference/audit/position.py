"""Whether a judge's ratings depend on the order in which it was shown the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, intervals
from polite_flamingo.preference.audit.check import Check, Findings
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.readings import Prompt, Reading
from polite_flamingo.preference.audit.repeats import Signs, compared, contrast, kept, kept_share, repeated


def position(evidence: Evidence) -> Check:
    """Check mean ratings by place, and how many choices another order changes, or no company.

    A noisy judge changes its mind in the same order as well, so what is lost is measured against that.
    """
    judge, settings, limits = evidence.judge, evidence.settings, evidence.settings.limits
    findings, resampling, prompts = Findings("position", settings), settings.resampling, evidence.prompts
    places = _by_place([_together(prompt, judge) for prompt in prompts], resampling)
    for place, found in enumerate(places, 1):
        findings.draw_estimate("places", f"place {place}", found)
    if places:
        place, furthest = max(enumerate(places, 1), key=lambda one: abs(one[1].value or 0.0))
        about = "Distance from the mean, in standard deviations of the scores; of all places, this lies furthest."
        name = f"ratings at place {place}"
        findings.add(name, furthest, limits.place, share=False, about=about, either_side=True)
    if not places:
        findings.lacks("answers rated several in one request")
    same = kept(prompts, lambda prompt: repeated(_together(prompt, judge), _same_places))
    if not len(same):  # rotations leave some answers in their order, though at other places
        same = kept(prompts, lambda prompt: repeated(_together(prompt, judge), _same_order))
    if len(same):
        steady = kept_share(same, resampling)
        findings.add("choices kept in the same order", steady)
        findings.draw_estimate("kept", "same order", steady)
    changes = (
        ("in another order", "another order", limits.order, lambda one: repeated(_together(one, judge), _other_order)),
        ("when rated alone", "alone", limits.alone, lambda one: _alone(one, judge)),
    )
    for how, name, limit, of in changes:
        changed = kept(prompts, of)
        if not len(changed):
            findings.lacks(NEEDED[name])
            continue
        found = kept_share(changed, resampling)
        findings.add(f"choices kept {how}", found)
        findings.draw_estimate("kept", name, found)
        lost = contrast(lambda steady, changed: steady - changed, same, changed, resampling)
        about = "" if len(same) else "The judge is taken to repeat itself exactly in the same order."
        findings.add(f"choices lost {how}", lost, limit, about=about)
    return findings.check()


NEEDED = {
    "another order": "the same answers rated in two orders (judge.orders of polite-flamingo rate)",
    "alone": "answers rated both alone and together (judge.audit of polite-flamingo rate)",
}
"""What each comparison needs."""


def _together(prompt: Prompt, judge: str) -> list[Reading]:
    return [one for one in prompt.read_by(judge) if not one.alone]


def _alone(prompt: Prompt, judge: str) -> Iterator[Signs]:
    together = _together(prompt, judge)
    for one in prompt.read_by(judge):
        if one.alone:
            for other in together:
                yield from compared(one, other)


def _same_places(first: Reading, second: Reading, left: int, right: int) -> bool:
    return all(first.places[answer] == second.places[answer] for answer in (left, right))


def _same_order(first: Reading, second: Reading, left: int, right: int) -> bool:
    return (first.places[left] < first.places[right]) == (second.places[left] < second.places[right])


def _other_order(first: Reading, second: Reading, left: int, right: int) -> bool:
    return not _same_order(first, second, left, right)


def _by_place(readings: Sequence[Sequence[Reading]], resampling: Resampling) -> list[Estimate]:
    """Return for each place the mean score of the answers there, from the mean of their request.

    Answers take each place equally often, or at random, so quality cancels out. The unit is the standard deviation of
    scores within a request.
    """
    means: list[dict[int, float]] = []
    squares = list[float]()
    for prompt in readings:
        found: dict[int, list[float]] = {}
        for reading in prompt:
            scores = reading.scores
            if len(scores) > 1:
                middle = sum(scores.values()) / len(scores)
                squares += [(one - middle) ** 2 for one in scores.values()]
                for answer, one in scores.items():
                    found.setdefault(reading.places[answer], []).append(one - middle)
        if found:
            means.append({place: sum(values) / len(values) for place, values in found.items()})
    spread = float(np.sqrt(np.mean(squares))) if squares else 0.0
    if not spread:
        return []
    most = max(place for one in means for place in one)
    table_PN = np.array([[one.get(place, np.nan) / spread for one in means] for place in range(most + 1)])
    return intervals(table_PN, resampling)
