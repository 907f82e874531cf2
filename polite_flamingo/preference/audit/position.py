"""Whether a judge's ratings depend on the order in which it was shown the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, intervals
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.limits import Check, Measure, measured
from polite_flamingo.preference.audit.readings import Prompt, Reading
from polite_flamingo.preference.audit.repeats import Signs, compared, kept_share


def position(evidence: Evidence) -> Check:
    """Check mean ratings by place, and which choices survive another order, or no company."""
    judge, settings, limits = evidence.judge, evidence.settings, evidence.settings.limits
    measures, missing = list[Measure](), list[str]()
    places = _by_place([_together(prompt, judge) for prompt in evidence.prompts], settings.resampling)
    for place, found in enumerate(places, 1):
        name, about = f"ratings at place {place}", "Difference from the mean, in standard deviations of the scores."
        one = measured(name, found, limits.place, limits.least, share=False, about=about, either_side=True)
        measures.append(one)
    if not places:
        missing.append("answers rated several in one request")

    def in_another_order(prompt: Prompt) -> Iterator[Signs]:
        return _swapped(_together(prompt, judge))

    def alone(prompt: Prompt) -> Iterator[Signs]:
        together = _together(prompt, judge)
        return (
            signs for one in prompt.read_by(judge) if one.alone for other in together for signs in compared(one, other)
        )

    swapped = kept_share(evidence.prompts, in_another_order, settings.resampling)
    if swapped:
        about = "A choice that only one of the two orders makes counts half."
        measures.append(measured("choices kept in another order", swapped, limits.order, limits.least, about=about))
    else:
        missing.append("the same answers rated in two orders (polite-flamingo rate rotates them)")
    company = kept_share(evidence.prompts, alone, settings.resampling)
    if company:
        measures.append(measured("choices kept when rated alone", company, limits.alone, limits.least))
    else:
        missing.append("answers rated both alone and together")
    charts = {"places": [[str(place), one.value, one.low, one.high] for place, one in enumerate(places, 1)]}
    return Check(name="position", measures=tuple(measures), missing=tuple(missing), charts=charts if places else {})


def _together(prompt: Prompt, judge: str) -> list[Reading]:
    return [one for one in prompt.read_by(judge) if not one.alone]


def _swapped(readings: Sequence[Reading]) -> Iterator[Signs]:
    """Yield what two readings say of two answers that they saw in opposite orders."""
    for number, first in enumerate(readings):
        for second in readings[number + 1 :]:

            def apart(left: int, right: int, one: Reading = first, other: Reading = second) -> bool:
                return (one.places[left] < one.places[right]) != (other.places[left] < other.places[right])

            yield from compared(first, second, apart)


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
