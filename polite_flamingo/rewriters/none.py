"""No rewriter: annotations stay as they are, and go through scores, thresholds and report.

It is the baseline of every comparison, and an audit of anybody's dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.usage import Usage


class RawRewriter:
    """Returns the annotations."""

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> list[list[str | BadSample | None]]:
        """Return for each sample the annotation of each turn; None for a turn without a part."""
        return [_annotations(sample) for sample in samples]

    def metrics(self) -> dict[str, float]:
        """Return nothing: nothing is measured."""
        return {}


def _annotations(sample: Sample) -> list[str | BadSample | None]:
    try:
        sample.validate()
    except BadSample as bad:
        return [bad if turn.learned else None for turn in sample.turns]
    return [turn.response if turn.learned else None for turn in sample.turns]
