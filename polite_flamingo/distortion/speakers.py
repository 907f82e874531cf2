"""Who plays the terse robot: what a speaker is, and what it is asked. See `loading.py` for the choice of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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
