"""Which answers a judge is shown together, in which order, and how often: what a judge's biases are measured from.

The first order of a prompt's answers is a shuffle that its key seeds, so that over many prompts every answer number
comes to every place. Each further order moves all answers on by one place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.seeds import seed_number


@dataclass(frozen=True, kw_only=True)
class Showing:
    """One request to a judge.

    Attributes:
        shown: number of each candidate among the sample's, in the order in which the judge sees them.
        sample: number of the sample, from 0, where the same is asked several times.
    """

    shown: tuple[int, ...]
    sample: int = 0


def showings(key: str, answers: int, config: JudgeSection) -> list[Showing]:
    """Return the requests for one prompt.

    Args:
        key: of its sample.
        answers: number of its candidates.
        config: of the judge.
    """
    order = list(range(answers))
    random.Random(f"{config.seed}/order/{key}").shuffle(order)
    together = [tuple(order[turn:] + order[:turn]) for turn in range(min(config.orders, answers))]
    if answers == 1:
        together = []
    audited = is_audited(key, config)
    alone = [(one,) for one in range(answers)] if audited or not together else []
    times = max(config.samples, config.audit_samples) if audited else config.samples
    asked = [Showing(shown=shown, sample=sample) for shown in (together or alone) for sample in range(times)]
    return asked + ([Showing(shown=shown) for shown in alone] if together else [])


def is_audited(key: str, config: JudgeSection) -> bool:
    """Whether a prompt is in the audited share, as its key decides."""
    return seed_number(f"{config.seed}/audit/{key}") < config.audit * 2**31
