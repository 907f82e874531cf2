"""The rule-based speaker: what stands in for a language model in the tiny profile, or where none is at hand.

It is no model and is never called one: provenance and preview say "rules". A text of Shapes is read by Shapes' grammar
and noted as its raw annotations are, so that a rewriter trained on these pairs has seen their forms; that a rewriter
learns to deal with *unseen* forms cannot be shown with this speaker. Any other text is shortened (`shorten.py`). Then a
command, if there is one, is followed (`following.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from polite_flamingo.distortion.following import RULES, follow
from polite_flamingo.distortion.shorten import shorten
from polite_flamingo.distortion.speakers import Request
from polite_flamingo.testbed.shapes.terse import terse


class RuleSpeaker:
    """Speaks by rules; see `speakers.Speaker`."""

    name = "rules"
    commands = tuple(RULES)

    def say(self, requests: Sequence[Request]) -> list[str]:
        """Each request by itself: the same one gives the same text."""
        return [self._said(request) for request in requests]

    def _said(self, request: Request) -> str:
        rng = random.Random(f"rules {request.seed}")
        noted = terse(request.response, rng)
        said = shorten(request.response, rng) if noted is None else noted
        return follow(request.command, said, rng).strip() if request.command and said else said
