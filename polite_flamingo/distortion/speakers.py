"""The interface of a speaker, which plays the terse robot. `loading.py` chooses one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from polite_flamingo.sample import BadSample


@dataclass(frozen=True, kw_only=True)
class SpeakerRequest:
    """One good response to distort.

    Attributes:
        seed: fixes all random choices; made from the sample's key and the number of the draw.
        instruction: the question, without image marks.
        response: the good response.
        command: a name in `commands.COMMANDS`, or "" for none.
    """

    seed: str
    instruction: str
    response: str
    command: str = ""


TRIAL = SpeakerRequest(
    seed="trial",
    instruction="What is the weather like in the picture?",
    response="The weather in the picture appears to be sunny and warm. The sky is blue, without a single cloud.",
)
"""A request to probe a server or a chat template with."""

Wording = Literal["completion", "begun turn", "begun turn, system text in the first turn", "asked plainly"]
"""How a language model is prompted; recorded in each pair's provenance."""
CHAT_WORDINGS: tuple[Wording, ...] = ("begun turn", "begun turn, system text in the first turn")
ASKED_PLAINLY: Wording = "asked plainly"


class Speaker(Protocol):
    """Distorts good responses. A language model also has a `wording`; rules have none."""

    @property
    def name(self) -> str:
        """Its name in the provenance of pairs: "rules", or that of a model."""

    @property
    def commands(self) -> Collection[str]:
        """The names of the commands that it can follow; it must not be given others."""

    def say(self, requests: Sequence[SpeakerRequest]) -> Sequence[str | BadSample]:
        """Return one text per request, in order; "" if nothing usable came back, `BadSample` if a retry cannot help."""
