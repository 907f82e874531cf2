"""The rule-based speaker: stands in for a language model in the tiny profile, or when none is available.

It is not a model and is never called one: provenance and preview say "rules". A profile may name a note taker
(`DistortionConfig.note_taker`) that knows the texts of one small world and writes them in the form of that world's raw
annotations. A rewriter trained on these pairs has seen those forms; how it would do on unseen forms cannot be shown
with this speaker. All other texts are shortened (`shorten.py`). Then the command's rule, if there is a command, is
applied (`command_rules.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from polite_flamingo.distortion.command_rules import RULES, follow
from polite_flamingo.distortion.shorten import shorten
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.named_function import named_function

NoteTaker = Callable[[str, random.Random], str | None]
"""A good text -> the text as an annotator would note it; None if it does not know the text."""


def load_note_taker(name: str) -> NoteTaker:
    """Return the function that a profile names as MODULE:FUNCTION. Raises `ValueError` if there is none."""
    return named_function("distortion.note_taker", name)


class RuleSpeaker:
    """Speaks by rules; see `speakers.Speaker`.

    Args:
        note_taker: is asked first; texts that it does not know are shortened.
    """

    name = "rules"
    commands = tuple(RULES)

    def __init__(self, note_taker: NoteTaker | None = None):
        self._note_taker = note_taker

    def say(self, requests: Sequence[SpeakerRequest]) -> list[str]:
        """Distort each request by itself; the same request always gives the same text."""
        return [self._said(request) for request in requests]

    def _said(self, request: SpeakerRequest) -> str:
        rng = random.Random(f"rules {request.seed}")
        noted = self._note_taker(request.response, rng) if self._note_taker else None
        said = shorten(request.response, rng) if noted is None else noted
        return follow(request.command, said, rng).strip() if request.command and said else said
