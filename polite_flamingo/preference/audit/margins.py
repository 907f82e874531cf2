"""How far apart the ratings of the two sides of a pair are, how often answers tie, and whether attributes differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.evaluation.bootstrap import resampled
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.limits import Check, Measure, measured
from polite_flamingo.preference.audit.readings import REWARD, choices, sign

BINS = 12
"""Most bars of a histogram."""


def mean(values_N: np.ndarray) -> float:
    """Return the mean; NaN of nothing."""
    return float(values_N.mean()) if len(values_N) else float("nan")


def margins(evidence: Evidence) -> Check:
    """Check that the chosen answer has the higher rating, and that ratings tell answers apart."""
    settings, limits, missing = evidence.settings, evidence.settings.limits, []
    measures = list[Measure]()
    differences_N = np.array([m for pair in evidence.pairs if (m := pair.margin(evidence.judge)) is not None])
    charts = {"margins": _histogram(differences_N)} if len(differences_N) else {}
    if not evidence.judge:
        missing.append("ratings of the answers (polite-flamingo rate), to compare the pairs with")
    if not evidence.given:
        missing.append("pairs (--pairs); the margins below are of each prompt's best answer and its worst")
    elif len(differences_N):
        against_N = (differences_N < 0).astype(float)
        measures.append(
            measured(
                "rejected answer rated higher", resampled(mean, (against_N,), settings.resampling),
                limits.reversed, limits.least, about="Labels were flipped, or another judge made them.",
            )
        )  # fmt: skip
    elif evidence.judge:
        missing.append("rated prompts of these pairs (--rated): no pair's two sides were found among rated answers")
    if len(differences_N):
        close_N = (np.abs(differences_N) < settings.margin).astype(float)
        found = resampled(mean, (close_N,), settings.resampling)
        measures.append(measured(f"sides less than {settings.margin:g} apart", found, None, limits.least))
    rows = [
        (number, float(not sign(apart)))
        for number, prompt in enumerate(evidence.prompts)
        for _, _, apart in choices(prompt.scores(evidence.judge))
    ]
    if rows:
        clusters_N, ties_N = np.array(rows).T
        found = resampled(mean, (ties_N,), settings.resampling, clusters_N)
        about = "Of all two answers to one prompt."
        measures.append(measured("answers rated alike", found, limits.ties, limits.least, about=about))
    return Check(name="margins", measures=tuple(measures), missing=tuple(missing), charts=charts)


def _histogram(values_N: np.ndarray) -> list[list[float | str | None]]:
    """Return rows of lower edge, upper edge and count; whole numbers get bars of their own if they are few."""
    low, high = float(np.floor(values_N.min())), float(np.floor(values_N.max())) + 1
    edges = np.linspace(low, high, int(high - low) + 1 if high - low <= 2 * BINS else BINS + 1)
    counts, _ = np.histogram(values_N, edges)
    return [[float(a), float(b), int(n)] for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def attributes(evidence: Evidence) -> Check:
    """Check that the attributes are more than one opinion: correlations of the differences between answers."""
    settings, limits = evidence.settings, evidence.settings.limits
    rows = [*_attribute_differences(evidence)]
    if not rows:
        needed = "ratings by attributes; a judge of one number has none" if evidence.judge else "ratings of the answers"
        return Check(name="attributes", missing=(needed,))
    table_NA, clusters_N = np.array([one for _, one in rows]), np.array([number for number, _ in rows])
    cells = list[list[float | str | None]]()
    measures = list[Measure]()
    for place, first in enumerate(ATTRIBUTES):
        for later, second in enumerate(ATTRIBUTES[place + 1 :], place + 1):
            found = resampled(correlation, (table_NA[:, place], table_NA[:, later]), settings.resampling, clusters_N)
            cells.append([first, second, found.value, found.low, found.high])
            weighed = settings.weights[place] and settings.weights[later]
            name = f"{first} with {second}"
            measures.append(measured(name, found, limits.halo if weighed else None, limits.least, share=False))
    constant = [name for name, column_N in zip(ATTRIBUTES, table_NA.T, strict=True) if not column_N.any()]
    missing = [f"answers to one prompt that differ in {name}; all have the same rating" for name in constant]
    return Check(name="attributes", measures=tuple(measures), missing=tuple(missing), charts={"correlations": cells})


def _attribute_differences(evidence: Evidence) -> Iterator[tuple[int, list[float]]]:
    for number, prompt in enumerate(evidence.prompts):
        values = prompt.attributes(evidence.judge)
        whole = {answer: 0.0 for answer, one in values.items() if REWARD not in one and {*ATTRIBUTES} <= one.keys()}
        for first, second, _ in choices(whole):
            yield number, [values[first][name] - values[second][name] for name in ATTRIBUTES]


def correlation(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the correlation of differences, which have no direction of their own, so about 0; NaN if one is constant."""
    spread = float(np.linalg.norm(left_N) * np.linalg.norm(right_N))
    return float(left_N @ right_N) / spread if spread else float("nan")
