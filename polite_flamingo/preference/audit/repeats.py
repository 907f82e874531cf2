"""What two readings of the same answers share: the base of the checks of order, of a black picture, and of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, resampled
from polite_flamingo.preference.audit.margins import mean
from polite_flamingo.preference.audit.readings import Prompt, Reading, choices, sign

Signs = tuple[int, int]
"""What two readings say of the same two answers: 1 prefers the first, -1 the second, 0 neither."""


def compared(first: Reading, second: Reading, where: Callable[[int, int], bool] | None = None) -> Iterator[Signs]:
    """Yield what two readings say of each two answers that both rated.

    Args:
        first: a reading.
        second: another one.
        where: which two answers count; by default all.
    """
    for left, right, apart in choices(first.scores):
        if {left, right} <= second.scores.keys() and (where is None or where(left, right)):
            yield sign(apart), sign(second.scores[left] - second.scores[right])


def kept(signs: Signs) -> float:
    """Return 1 for the same choice, 0 for the opposite one, and a half if only one reading makes a choice."""
    return (1 + signs[0] * signs[1]) / 2


def kept_share(
    prompts: Sequence[Prompt], of: Callable[[Prompt], Iterable[Signs]], resampling: Resampling
) -> Estimate | None:
    """Return the share of choices kept, over what a function finds in each prompt; None if it finds nothing."""
    rows = [(number, kept(signs)) for number, prompt in enumerate(prompts) for signs in of(prompt) if any(signs)]
    if not rows:
        return None
    clusters_N, kept_N = np.array(rows).T
    return resampled(mean, (kept_N,), resampling, clusters_N)


def repeated(readings: Sequence[Reading]) -> Iterator[Signs]:
    """Yield what each two readings in the same mode say of the same answers."""
    for place, first in enumerate(readings):
        for second in readings[place + 1 :]:
            if first.alone == second.alone:
                yield from compared(first, second)
