"""Label noise, estimated from answers that were rated several times.

A reading's choice between two answers is wrong if it is opposite to the judge's own steady opinion, which endless
readings would show. Each two answers have a flip rate p of their own, from 0 to a half; two readings of them differ
with probability 2p(1 - p). How p is spread decides what a share of differing readings means: if it is the same
everywhere, 37.5 % of them mean p = 25 %, and less even spreads mean more. The spread is estimated by maximum
likelihood (Laird 1978: nonparametric, by expectation maximisation), which starts with most weight on one rate for all,
and the rest spread evenly. With two or three readings the data cannot tell these apart, and the start decides; from
four on they can.

Noise that all readings share, such as a judge's liking for long answers, is invisible here.
"""

from __future__ import annotations

from math import comb

import numpy as np

from polite_flamingo.evaluation.bootstrap import resampled
from polite_flamingo.preference.audit.check import Check, Findings
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.readings import Prompt, choices, sign

RATES = 26
"""Flip rates, from 0 to a half, over which the spread is estimated."""

ALIKE = 0.7
"""Weight of one rate for all, at the start."""

STEPS = 50
"""Steps of the estimate: more fit the chance of small samples."""

READINGS = (1, 3, 5, 9)
"""Numbers of readings whose majority is predicted."""


def noise(evidence: Evidence) -> Check:
    """Check how many choices of a single reading are likely to be wrong."""
    settings = evidence.settings
    findings, resampling = Findings("noise", settings), settings.resampling
    rows = [
        (number, *found)
        for number, prompt in enumerate(evidence.prompts)
        for found in _repeated(prompt, evidence.judge, settings.margin)
    ]
    if not rows:
        findings.lacks("the same answers rated twice or more (judge.audit_samples of polite-flamingo rate)")
        return findings.check()
    prompts_N, less_N, readings_N = np.array(rows).T
    differing = resampled(differing_share, (less_N, readings_N), resampling, prompts_N)
    findings.add("two readings make opposite choices", differing)
    flipped = resampled(flip_rate, (less_N, readings_N), resampling, prompts_N)
    least, most = (f"{100 * one:.1f} %" for one in (even_rate(differing.value or 0.0), differing.value or 0.0))
    about = (
        "Estimated share of one reading's choices that are opposite to the judge's steady opinion. It would be "
        f"{least} if all choices were equally hard, and {most} if each were certain or a coin toss."
    )
    findings.add("label noise", flipped, settings.limits.noise, about=about)
    rates_P, weights_P = spread_of(less_N, readings_N)
    for readings in READINGS:
        findings.draw("majorities", readings, float(weights_P @ _majority_wrong(rates_P, readings)))
    return findings.check()


def _repeated(prompt: Prompt, judge: str, margin: float) -> list[tuple[int, int]]:
    """Return for each two answers how many readings prefer the less preferred one, and how many prefer any.

    Only answers count that some reading rates far enough apart for a pair. Readings together come first; answers that
    were not rated together twice are taken from readings alone.
    """
    readings = prompt.read_by(judge)
    together = [one for one in readings if not one.alone]
    used = together if len(together) > 1 else [one for one in readings if one.alone]
    apart: dict[tuple[int, int], list[float]] = {}
    for reading in used:
        for first, second, difference in choices(reading.scores):
            apart.setdefault((first, second), []).append(difference)
    scalar = not any(len(values) > 1 for reading in used for values in reading.values.values())
    found = []
    for differences in apart.values():
        signs = [sign(one) for one in differences if sign(one)]
        if len(signs) > 1 and (scalar or max(map(abs, differences)) >= margin):
            found.append((min(signs.count(1), signs.count(-1)), len(signs)))
    return found


def differing_share(less_N: np.ndarray, readings_N: np.ndarray) -> float:
    """Return the share of two readings of the same answers that prefer different ones.

    Args:
        less_N: readings that prefer the less preferred answer.
        readings_N: readings that prefer one of the two, at least 2.
    """
    return float(np.sum(2 * less_N * (readings_N - less_N) / (readings_N - 1)) / np.sum(readings_N))


def flip_rate(less_N: np.ndarray, readings_N: np.ndarray) -> float:
    """Return the expected share of single readings that are opposite to the steady opinion, likewise."""
    rates_P, weights_P = spread_of(less_N, readings_N)
    return float(weights_P @ rates_P)


def even_rate(differing: float) -> float:
    """Return the flip rate, the same everywhere, that makes this share of two readings differ: the least possible."""
    return float(1 - np.sqrt(max(0.0, 1 - 2 * differing))) / 2


def spread_of(less_N: np.ndarray, readings_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate how flip rates are spread: rates from 0 to a half, and the weight of each."""
    kinds, counts_K = np.unique(np.column_stack([less_N, readings_N]).astype(int), axis=0, return_counts=True)
    even = even_rate(differing_share(less_N, readings_N))
    rates_P = np.append(np.linspace(0, 0.5, RATES), even)
    weights_P = np.append(np.full(RATES, (1 - ALIKE) / RATES), ALIKE)
    likelihood_KP = np.array([_likelihood(int(less), int(n), rates_P) for less, n in kinds])
    for _ in range(STEPS):
        shares_KP = likelihood_KP * weights_P
        shares_KP /= shares_KP.sum(axis=1, keepdims=True)
        weights_P = counts_K @ shares_KP / counts_K.sum()
    return rates_P, weights_P


def _likelihood(less: int, readings: int, rates_P: np.ndarray) -> np.ndarray:
    """Return the probability of so many readings on the smaller side, whichever side is the wrong one."""
    more = readings - less
    return comb(readings, less) * (rates_P**less * (1 - rates_P) ** more + rates_P**more * (1 - rates_P) ** less) / 2


def _majority_wrong(rates_P: np.ndarray, readings: int) -> np.ndarray:
    """Return the probability that most of an odd number of readings are wrong."""
    wrong = range(readings // 2 + 1, readings + 1)
    terms = [comb(readings, n) * rates_P**n * (1 - rates_P) ** (readings - n) for n in wrong]
    return np.asarray(np.sum(terms, axis=0))
