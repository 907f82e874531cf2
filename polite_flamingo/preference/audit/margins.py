"""How far apart the ratings of the two sides of a pair are, how often answers tie, and whether attributes differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.evaluation.bootstrap import resampled
from polite_flamingo.preference.audit.check import Check, Findings
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.readings import choices, sign

BARS = 24
"""Most bars of the histogram."""


def mean(values_N: np.ndarray) -> float:
    """Return the mean; NaN of nothing."""
    return float(values_N.mean()) if len(values_N) else float("nan")


def margins(evidence: Evidence) -> Check:
    """Check that the chosen answer has the higher rating, and that ratings tell answers apart."""
    settings, limits = evidence.settings, evidence.settings.limits
    findings = Findings("margins", settings)
    margins_N = np.array([m for pair in evidence.pairs if (m := pair.margin(evidence.judge)) is not None])
    if not evidence.judge:
        findings.lacks("ratings of the answers (polite-flamingo rate)")
    elif not evidence.given:
        findings.lacks("pairs (--pairs); the margins shown are of each prompt's best answer and its worst")
    elif not len(margins_N):
        findings.lacks("the rated answers that the pairs were made of (--rated)")
    if len(margins_N):
        if evidence.given:
            against = resampled(mean, ((margins_N < 0).astype(float),), settings.resampling)
            about = "Their labels were flipped, or other ratings made them."
            findings.add("rejected answer is rated higher", against, limits.reversed, about=about)
        close = resampled(mean, ((np.abs(margins_N) < settings.margin).astype(float),), settings.resampling)
        findings.add(f"sides less than {settings.margin:g} apart", close)
        for low, high, count in _histogram(margins_N):
            findings.draw("margins", low, high, count)
    rows = [
        (number, float(not sign(apart)))
        for number, prompt in enumerate(evidence.prompts)
        for _, _, apart in choices(prompt.scores(evidence.judge))
    ]
    if rows:
        prompts_N, ties_N = np.array(rows).T
        ties = resampled(mean, (ties_N,), settings.resampling, prompts_N)
        findings.add("answers rated alike", ties, limits.ties, about="Of all two answers to one prompt.")
    return findings.check()


def _histogram(values_N: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """Yield edges and count of each bar; whole numbers get bars of their own if they are few."""
    low, high = float(np.floor(values_N.min())), float(np.floor(values_N.max())) + 1
    edges = np.linspace(low, high, min(BARS, int(high - low)) + 1)
    counts, _ = np.histogram(values_N, edges)
    return zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)


def attributes(evidence: Evidence) -> Check:
    """Check that the attributes are more than one opinion: correlations of the differences between answers.

    Those of the reference only warn: where right answers are the helpful ones, a judge that cannot err says so.
    """
    settings, exact = evidence.settings, evidence.judge == evidence.settings.reference
    findings = Findings("attributes", settings)
    rows = [*_attribute_differences(evidence)]
    if not rows:
        findings.lacks("ratings by attributes (a judge of one number has none)")
        return findings.check()
    prompts_N, table_NA = np.array([number for number, _ in rows]), np.array([apart for _, apart in rows])
    for place, first in enumerate(ATTRIBUTES):
        if not table_NA[:, place].any():
            findings.lacks(f"answers that differ in {first}: it is the same for all answers to a prompt")
        for later in range(place + 1, len(ATTRIBUTES)):
            columns = table_NA[:, place], table_NA[:, later]
            found = resampled(correlation, columns, settings.resampling, prompts_N)
            weighed = settings.weights[place] and settings.weights[later]
            limit = settings.limits.halo if weighed else None
            findings.add(f"{first} with {ATTRIBUTES[later]}", found, limit, share=False, only_warns=exact)
            findings.draw("correlations", first, ATTRIBUTES[later], found.value, found.low, found.high)
    return findings.check()


def _attribute_differences(evidence: Evidence) -> Iterator[tuple[int, list[float]]]:
    """Yield number of the prompt, and the differences of all attributes, for each two answers."""
    for number, prompt in enumerate(evidence.prompts):
        values = prompt.attributes(evidence.judge)
        whole = {answer: 0.0 for answer, found in values.items() if {*ATTRIBUTES} <= found.keys()}
        for first, second, _ in choices(whole):
            yield number, [values[first][name] - values[second][name] for name in ATTRIBUTES]


def correlation(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return the correlation of differences; their sign is arbitrary, so about 0. NaN if one is always 0."""
    spread = float(np.linalg.norm(left_N) * np.linalg.norm(right_N))
    return float(left_N @ right_N) / spread if spread else float("nan")
