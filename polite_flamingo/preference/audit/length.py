"""Whether length explains what was chosen: share of longer ones, slope of the outcome, AUC of length alone."""

from __future__ import annotations

import numpy as np

from polite_flamingo.evaluation.bootstrap import resampled
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.limits import Check, Measure, measured, only_warns
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
    rows = [(number, pair.lengths[0] - pair.lengths[1]) for number, pair in enumerate(evidence.pairs)]
    if not evidence.given:
        rows = [*_choices_by(evidence)]
    apart = [(number, difference) for number, difference in rows if difference]
    if not apart:
        return Check(name="length", missing=("pairs, or rated answers, whose lengths differ",))
    clusters_N, differences_N = np.array(apart, dtype=float).T
    spread = float(np.sqrt(np.mean(differences_N**2)))
    resampling = settings.resampling
    longer = resampled(mean, ((differences_N > 0).astype(float),), resampling, clusters_N)
    alone = resampled(either_way, (differences_N,), resampling, clusters_N)
    slope = resampled(slope_of, (differences_N / spread,), resampling, clusters_N)
    excess, missing = _excess(evidence)
    explained = measured(
        "what is chosen, guessed from length alone (AUC)", alone, limits.length, limits.least, share=False,
        about="0.5 is chance; 1 means that length explains every choice.",
    )  # fmt: skip
    about = f"Log-odds of being chosen per {spread:,.0f} characters more, the typical difference."
    measures = [
        measured("longer answer chosen", longer, None, limits.least),
        measured("slope of the outcome on length", slope, None, limits.least, share=False, about=about),
        only_warns(explained) if excess and excess.verdict != "not_measured" else explained,
        *([excess] if excess else []),
    ]
    charts = {"outcomes": _curve(differences_N)}
    return Check(name="length", measures=tuple(measures), missing=tuple(missing), charts=charts)


def _choices_by(evidence: Evidence) -> list[tuple[int, int]]:
    """Return number of the prompt, and length of the preferred answer less that of the other, for each choice."""
    return [
        (number, sign(apart) * (prompt.lengths[first] - prompt.lengths[second]))
        for number, prompt in enumerate(evidence.prompts)
        for first, second, apart in choices(prompt.scores(evidence.judge))
        if sign(apart)
    ]


def _excess(evidence: Evidence) -> tuple[Measure | None, list[str]]:
    """Compare with the reference, on the choices that both make."""
    settings, limits = evidence.settings, evidence.settings.limits
    if not evidence.reference:
        return None, [f"ratings by the reference ({settings.reference}): longer answers may simply be better"]
    rows = list[tuple[float, float]]()
    for number, prompt in enumerate(evidence.prompts):
        trusted = prompt.scores(evidence.reference)
        for first, second, apart in choices(prompt.scores(evidence.judge)):
            longer = sign(prompt.lengths[first] - prompt.lengths[second])
            if longer and sign(apart) and {first, second} <= trusted.keys():
                right = sign(trusted[first] - trusted[second])
                rows.append((number, (sign(apart) * longer - right * longer) / 2))
    if not rows:
        return None, ["answers that judge and reference both rated"]
    clusters_N, more_N = np.array(rows).T
    found = resampled(mean, (more_N,), settings.resampling, clusters_N)
    about = f"Share of choices for the longer answer, less that of {evidence.reference}, whose ties count half."
    name = "longer answers preferred beyond the reference"
    return measured(name, found, limits.length_excess, limits.least, about=about), []


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


def _curve(differences_N: np.ndarray) -> list[list[float | str | None]]:
    """Return mean difference of lengths, share in which the longer one was chosen, and count, by equal parts."""
    order_N = np.argsort(np.abs(differences_N), kind="stable")
    parts = np.array_split(differences_N[order_N], min(POINTS, len(order_N)))
    return [[float(np.abs(part).mean()), float((part > 0).mean()), len(part)] for part in parts]
