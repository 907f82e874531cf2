"""Who plays the terse robot: what is asked of a speaker, and which one a configuration names.

A speaker that loads a model does so when it is made; its module is imported only then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.sample import BadSample


@dataclass(frozen=True, kw_only=True)
class Request:
    """One good response to be said tersely.

    Attributes:
        seed: of everything that is drawn for it; it comes from the sample's key and the number of the draw.
        instruction: what was asked, without image marks.
        response: the good response.
        command: a name of `commands.COMMANDS`, or "" for none.
    """

    seed: str
    instruction: str
    response: str
    command: str = ""


TRIAL = Request(
    seed="trial",
    instruction="What is the weather like in the picture?",
    response="The weather in the picture appears to be sunny and warm. The sky is blue, without a single cloud.",
)
"""What a server or a chat template is tried out with."""

Wording = Literal["completion", "begun turn", "begun turn, system text in the first turn", "asked plainly"]
"""How a language model is spoken to; it stands in the provenance of each pair."""
CHAT_WORDINGS: tuple[Wording, ...] = ("begun turn", "begun turn, system text in the first turn")
ASKED_PLAINLY: Wording = "asked plainly"


class Speaker(Protocol):
    """Says good responses tersely. A language model has a `wording`, too, which rules have not."""

    @property
    def name(self) -> str:
        """Who it is, for the provenance: "rules", or a model's name."""

    @property
    def commands(self) -> Collection[str]:
        """The names of the commands that it follows; others must not be asked of it."""

    def say(self, requests: Sequence[Request]) -> Sequence[str | BadSample]:
        """One text a request, in order; "" where nothing usable came; a `BadSample` where asking again is no use."""


def load_speaker(config: DistortionConfig) -> Speaker:
    """The speaker of a configuration.

    Raises:
        ValueError: it cannot be used; says what to do.
    """
    if config.speaker == "rules":
        from polite_flamingo.distortion.rules import RuleSpeaker, load_note_taker

        return RuleSpeaker(load_note_taker(config.note_taker) if config.note_taker else None)
    if config.speaker == "local":
        from polite_flamingo.distortion.local import LocalSpeaker

        return LocalSpeaker(config)
    from polite_flamingo.distortion.endpoint import EndpointSpeaker

    return EndpointSpeaker(config)
