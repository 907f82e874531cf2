"""Whether length explains what was chosen: share of longer ones, slope of the outcome, AUC of length alone."""

from __future__ import annotations

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, resampled
from polite_flamingo.preference.audit.check import Check, Findings
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.margins import mean
from polite_flamingo.preference.audit.readings import choices, sign

STEPS = 12
"""Newton steps of the slope; five are enough unless length explains everything."""

RIDGE = 1e-3
"""Keeps the slope finite where length explains everything."""

POINTS = 6
"""Most points of the curve of the outcome over the difference of lengths."""


def length(evidence: Evidence) -> Check:
    """Check that the longer (or the shorter) answer is not chosen for its length."""
    settings, limits = evidence.settings, evidence.settings.limits
    findings, resampling = Findings("length", settings), settings.resampling
    rows = [(number, pair.lengths[0] - pair.lengths[1]) for number, pair in enumerate(evidence.pairs)]
    apart = [row for row in (rows if evidence.given else _choices(evidence)) if row[1]]
    if not apart:
        findings.lacks("pairs, or rated answers, whose lengths differ")
        return findings.check()
    numbers_N, differences_N = np.array(apart, dtype=float).T
    longer = resampled(mean, ((differences_N > 0).astype(float),), resampling, numbers_N)
    findings.add("longer answer is chosen", longer)
    typical = float(np.sqrt(np.mean(differences_N**2)))
    slope = resampled(slope_of, (differences_N / typical,), resampling, numbers_N)
    about = f"Log-odds of being chosen per {typical:,.0f} characters more, the typical difference."
    findings.add("slope of the outcome on length", slope, share=False, about=about)
    beyond = _beyond_reference(evidence)
    trusted = beyond is not None and beyond.n >= limits.least
    explained = resampled(either_way, (differences_N,), resampling, numbers_N)
    about = "0.5 is chance; 1 means that length explains every choice."
    findings.add(
        "choices guessed from length alone, AUC", explained, limits.length, share=False, about=about, only_warns=trusted
    )
    if beyond:
        about = f"Share of choices for the longer answer, less that of {evidence.reference}, whose ties count half."
        findings.add("longer answer chosen more often than by the reference", beyond, limits.length_excess, about=about)
    else:
        findings.lacks(f"ratings by the reference ({settings.reference}), to tell whether longer answers are better")
    for row in _curve(differences_N):
        findings.draw("outcomes", *row)
    return findings.check()


def _choices(evidence: Evidence) -> list[tuple[int, int]]:
    """Return number of the prompt, and length of the preferred answer less that of the other, for each choice."""
    return [
        (number, sign(apart) * (prompt.lengths[first] - prompt.lengths[second]))
        for number, prompt in enumerate(evidence.prompts)
        for first, second, apart in choices(prompt.scores(evidence.judge))
    ]


def _beyond_reference(evidence: Evidence) -> Estimate | None:
    """Return how much more often the judge prefers the longer answer, where the reference rated both."""
    rows = list[tuple[float, float]]()
    for number, prompt in enumerate(evidence.prompts if evidence.reference else ()):
        trusted = prompt.scores(evidence.reference)
        for first, second, apart in choices(prompt.scores(evidence.judge)):
            longer = sign(prompt.lengths[first] - prompt.lengths[second])
            if longer and sign(apart) and {first, second} <= trusted.keys():
                rows.append((number, longer * (sign(apart) - sign(trusted[first] - trusted[second])) / 2))
    if not rows:
        return None
    prompts_N, more_N = np.array(rows).T
    return resampled(mean, (more_N,), evidence.settings.resampling, prompts_N)


def either_way(differences_N: np.ndarray) -> float:
    """Return the AUC of length or, if that is greater, of shortness."""
    found = auc(differences_N)
    return max(found, 1 - found)


def auc(differences_N: np.ndarray) -> float:
    """Return the area under the ROC curve of the difference of lengths as a guess of which side was chosen.

    Each pair counts from both sides: chosen less rejected is a hit, rejected less chosen a miss.
    """
    ordered_N = np.sort(differences_N)
    under_N = np.searchsorted(ordered_N, -differences_N, side="left")
    level_N = np.searchsorted(ordered_N, -differences_N, side="right") - under_N
    return float(np.mean(1 - (under_N + level_N / 2) / len(ordered_N)))


def slope_of(differences_N: np.ndarray) -> float:
    """Return the slope of a logistic regression, without intercept, of the outcome on a difference.

    Args:
        differences_N: of the chosen answer from the rejected one, so the outcome is always 1.
    """
    slope = 0.0
    for _ in range(STEPS):
        lost_N = 1 / (1 + np.exp(np.clip(slope * differences_N, -50, 50)))
        gradient = np.mean(lost_N * differences_N) - RIDGE * slope
        curvature = np.mean(lost_N * (1 - lost_N) * differences_N**2) + RIDGE
        slope += float(np.clip(gradient / curvature, -1, 1))
    return slope


def _curve(differences_N: np.ndarray) -> list[tuple[float, float, int]]:
    """Return mean difference of lengths, share in which the longer one was chosen, and count, by equal parts."""
    order_N = np.argsort(np.abs(differences_N), kind="stable")
    parts = np.array_split(differences_N[order_N], min(POINTS, len(order_N)))
    return [(float(np.abs(part).mean()), float((part > 0).mean()), len(part)) for part in parts]
