"""SteerLM's attributes in the prompt (Dong et al. 2023, arXiv 2310.05344): train on all answers, ask for the best.

In training, each prompt is followed by a line with the ratings of the answer that is learned. At inference the line
asks for the ratings that are wanted: all 4; complexity 2 and verbosity 2, which keeps answers short; or no line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from polite_flamingo.candidates import ATTRIBUTES, MOST
from polite_flamingo.sample import Sample

Wanted = Literal["best", "short", "none"]
"""What an answer is asked to be at inference."""

WANTED: Mapping[Wanted, Mapping[str, float]] = {
    "best": dict.fromkeys(ATTRIBUTES, MOST),
    "short": dict.fromkeys(ATTRIBUTES, MOST) | {"complexity": 2, "verbosity": 2},
    "none": {},
}
"""The ratings that each variant asks for."""


def attribute_line(ratings: Mapping[str, float]) -> str:
    """Return the line that asks for an answer with these ratings, means rounded to whole numbers.

    Raises:
        KeyError: an attribute is missing.
    """
    rounded = (f"{name} {int(ratings[name] + 0.5)}" for name in ATTRIBUTES)
    return f"Answer so that, from 0 to {MOST}, the ratings are: {', '.join(rounded)}."


def with_attributes(sample: Sample, ratings: Mapping[str, float]) -> Sample:
    """Return the sample with the line after its last instruction; unchanged if no ratings are given."""
    if not ratings:
        return sample
    *before, last = sample.turns
    asked = f"{last.instruction.rstrip()}\n{attribute_line(ratings)}"
    return replace(sample, turns=(*before, replace(last, instruction=asked)))
