"""Prompts with rated answers, as `rate` leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polite_flamingo.candidates import ATTRIBUTES, Candidate, Rating
from polite_flamingo.sample import Sample, Turn
from tests.support.made_samples import picture


def rating(*values: float, judge: str = "rule", **more: Any) -> Rating:
    """A rating with helpfulness, correctness and so on, in order."""
    return Rating(judge=judge, values=dict(zip(ATTRIBUTES, values, strict=False)), **more)


def rated(
    key: str,
    answers: Mapping[str, Sequence[float]] | Sequence[tuple[str, Sequence[float]]],
    *,
    pictures: int = 1,
    before: Sequence[Turn] = (),
    judge: str = "rule",
) -> Sample:
    """A prompt and its answers, each a text with five ratings; no ratings, no judge."""
    pairs = answers.items() if isinstance(answers, Mapping) else answers
    candidates = tuple(
        Candidate(text=text, model="flamingo", number=n, ratings=(rating(*values, judge=judge),) if values else ())
        for n, (text, values) in enumerate(pairs)
    )
    last = Turn(instruction="<image>" * pictures + "How many shapes?", response="two")
    return Sample(
        key=key, dataset="made", task="vqa" if pictures else "text", turns=(*before, last),
        images=tuple(picture(n) for n in range(pictures)), candidates=candidates,
    )  # fmt: skip
