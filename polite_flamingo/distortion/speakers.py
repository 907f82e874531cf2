"""The interface of a speaker, who plays the terse robot. `loading.py` chooses one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from polite_flamingo.sample import BadSample


@dataclass(frozen=True, kw_only=True)
class Request:
    """One good response to distort.

    Attributes:
        seed: of all random choices; made of the key of the sample and the number of the draw.
        instruction: the question, without image marks.
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
"""A request to probe a server or a chat template with."""

Wording = Literal["completion", "begun turn", "begun turn, system text in the first turn", "asked plainly"]
"""How a language model is prompted; recorded in the provenance of each pair."""
CHAT_WORDINGS: tuple[Wording, ...] = ("begun turn", "begun turn, system text in the first turn")
ASKED_PLAINLY: Wording = "asked plainly"


class Speaker(Protocol):
    """Distorts good responses. A language model also has a `wording`; rules have none."""

    @property
    def name(self) -> str:
        """The name for the provenance: "rules", or that of a model."""

    @property
    def commands(self) -> Collection[str]:
        """The names of the orders that it can follow; it must not get others."""

    def say(self, requests: Sequence[Request]) -> Sequence[str | BadSample]:
        """One text per request, in order; "" if nothing usable came back, a `BadSample` if a retry would not help."""
