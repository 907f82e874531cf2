"""Whether the choice survives a black picture: what is chosen without seeing was not chosen for what is seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polite_flamingo.evaluation.bootstrap import resampled
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.limits import Check, measured
from polite_flamingo.preference.audit.margins import mean
from polite_flamingo.preference.audit.readings import Prompt
from polite_flamingo.preference.audit.repeats import Signs, compared, kept, repeated


def blind(evidence: Evidence) -> Check:
    """Check how much of the choice is left when the judge is shown a black picture.

    A noisy judge does not repeat itself either, so what is left is measured against how far it does: 0 if the black
    picture leaves only chance, 1 if it changes no more than asking again.
    """
    judge, settings, limits = evidence.judge, evidence.settings, evidence.settings.limits
    seen = [prompt for prompt in evidence.prompts if prompt.pictures and prompt.read_by(judge)]
    asked = [prompt for prompt in seen if prompt.read_by(judge, blind=True)]
    if not asked:
        needed = "ratings of a black picture (polite-flamingo rate makes them for an audit share)"
        return Check(name="blind", missing=(needed if seen else "rated answers to questions about pictures",))
    resampling = settings.resampling
    without = _rows([(number, signs) for number, prompt in enumerate(asked) for signs in _without(prompt, judge)])
    again = _rows([(number, signs) for number, prompt in enumerate(asked) for signs in repeated(prompt.read_by(judge))])
    if not len(without):
        return Check(name="blind", missing=("choices between answers that were also rated without the picture",))
    survives = resampled(mean, (without[:, 1],), resampling, without[:, 0])
    measures = [
        measured("choices kept without the picture", survives, None, limits.least,
                 about="Half is chance. An answer that only then ties counts half."),
    ]  # fmt: skip
    if len(again):
        repeats = resampled(mean, (again[:, 1],), resampling, again[:, 0])
        measures.append(measured("choices kept when asked again", repeats, None, limits.least))
    steady = np.ones(len(again), bool)
    rows = np.concatenate([np.column_stack([without, np.zeros(len(without))]), np.column_stack([again, steady])])
    left = resampled(_left, (rows[:, 1], rows[:, 2]), resampling, rows[:, 0])
    about = "The share of the choice, beyond chance, that needs no picture."
    if not len(again):
        about += " The judge was asked only once, so it is taken to repeat itself exactly."
    measures.append(measured("left without the picture", left, limits.blind, limits.least, about=about))
    charts: dict[str, list[list[float | str | None]]] = {
        "kept": [
            [name, one.value, one.low, one.high]
            for name, one in zip(("black picture", "asked again"), [m.found for m in measures[:-1]], strict=False)
        ]
    }
    missing = () if len(again) else ("the same answers rated twice with their picture",)
    return Check(name="blind", measures=tuple(measures), missing=missing, charts=charts)


def _without(prompt: Prompt, judge: str) -> Iterator[Signs]:
    """Yield what is said with the picture and without it, of answers between which the picture decided."""
    for seeing in prompt.read_by(judge):
        for black in prompt.read_by(judge, blind=True):
            if seeing.alone == black.alone:
                yield from (signs for signs in compared(seeing, black) if signs[0])


def _rows(found: list[tuple[int, Signs]]) -> np.ndarray:
    """Return rows of prompt and `kept`, for those in which a reading makes a choice."""
    return np.array([(number, kept(signs)) for number, signs in found if any(signs)], dtype=float).reshape(-1, 2)


def _left(kept_N: np.ndarray, again_N: np.ndarray) -> float:
    """Return what the black picture keeps beyond chance, over what asking again keeps."""
    steady = mean(kept_N[again_N > 0]) - 0.5 if again_N.any() else 0.5
    return (mean(kept_N[again_N == 0]) - 0.5) / steady if steady > 0 else float("nan")
