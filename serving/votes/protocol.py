"""What the page and the server of votes tell each other. Names of models and kinds of battles are not among it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from polite_flamingo.preference.votes.poll import LONGEST_NAME

Name = Annotated[str, Field(max_length=4 * LONGEST_NAME)]
"""A voter's name as it was typed; `poll.cleaned` says what is allowed."""


class Asking(BaseModel):
    """Who asks."""

    model_config = ConfigDict(extra="forbid")
    voter: Name


class Ballot(BaseModel):
    """A vote."""

    model_config = ConfigDict(extra="forbid")
    voter: Name
    battle: Annotated[str, Field(max_length=80, description="id of the battle that was shown")]
    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    seconds: Annotated[float, Field(ge=0, description="how long it was looked at")] = 0.0


class Picture(BaseModel):
    """A picture as a data: URI, or why it cannot be shown."""

    uri: str
    width: int
    height: int
    problem: str


class Exchange(BaseModel):
    """An earlier turn of the conversation."""

    asked: str
    said: str


class Pair(BaseModel):
    """Two texts to choose from."""

    id: str
    question: str
    before: list[Exchange]
    pictures: list[Picture]
    left: str
    right: str


class State(BaseModel):
    """What a voter sees now.

    Attributes:
        voter: the name as it counts.
        pair: None when all are voted on.
        voted: number of votes, skipped ones included.
        skipped: number of skipped ones.
        total: number of pairs.
        can_undo: whether there is a vote to take back.
        undone: the vote that was just taken back; "" for none.
    """

    voter: str
    pair: Pair | None
    voted: int
    skipped: int
    total: int
    can_undo: bool
    undone: str = ""
