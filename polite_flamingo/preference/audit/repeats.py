"""What two readings of the same answers share: the base of the checks of order, of a black picture, and of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, resampled
from polite_flamingo.preference.audit.margins import mean
from polite_flamingo.preference.audit.readings import Prompt, Reading, choices, sign

Signs = tuple[int, int]
"""What two readings say of the same two answers: 1 prefers the first, -1 the second, 0 neither."""

Where = Callable[[Reading, Reading, int, int], bool]
"""Whether two answers count in two readings."""


def compared(first: Reading, second: Reading, where: Where | None = None) -> Iterator[Signs]:
    """Yield what two readings say of each two answers that both rated, or of those that count."""
    for left, right, apart in choices(first.scores):
        if {left, right} <= second.scores.keys() and (where is None or where(first, second, left, right)):
            yield sign(apart), sign(second.scores[left] - second.scores[right])


def repeated(readings: Sequence[Reading], where: Where | None = None) -> Iterator[Signs]:
    """Yield what each two readings in the same mode say of the same answers."""
    for place, first in enumerate(readings):
        for second in readings[place + 1 :]:
            if first.alone == second.alone:
                yield from compared(first, second, where)


def kept(prompts: Sequence[Prompt], of: Callable[[Prompt], Iterable[Signs]]) -> np.ndarray:
    """Return rows (number of the prompt, kept) of all choices that one of two readings makes, (N, 2).

    Kept is 1 for the same choice, 0 for the opposite one, and a half if the other reading makes none.
    """
    rows = [
        (number, (1 + left * right) / 2)
        for number, prompt in enumerate(prompts)
        for left, right in of(prompt)
        if left or right
    ]
    return np.array(rows, dtype=float).reshape(-1, 2)


def kept_share(rows_N2: np.ndarray, resampling: Resampling) -> Estimate:
    """Return the share of choices kept, of rows of `kept`."""
    return resampled(mean, (rows_N2[:, 1],), resampling, rows_N2[:, 0])


def contrast(
    statistic: Callable[[float, float], float], steady_N2: np.ndarray, changed_N2: np.ndarray, resampling: Resampling
) -> Estimate:
    """Compare what a judge keeps when it is asked again, and when something is changed; both from `kept`.

    Args:
        statistic: of the two shares kept.
        steady_N2: asked again; with no rows, the judge is taken to repeat itself exactly.
        changed_N2: asked with the change.
        resampling: of the interval.
    """
    rows_N2 = np.concatenate([steady_N2, changed_N2])
    changed_N = np.arange(len(rows_N2)) >= len(steady_N2)

    def of_rows(kept_N: np.ndarray, changed_N: np.ndarray) -> float:
        steady = kept_N[~changed_N]
        return statistic(mean(steady) if len(steady) else 1.0, mean(kept_N[changed_N]))

    return resampled(of_rows, (rows_N2[:, 1], changed_N), resampling, rows_N2[:, 0])
