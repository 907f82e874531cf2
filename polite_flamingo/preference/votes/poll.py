"""What each voter sees next: battles in an order of their own, texts on sides of their own, and a way back.

Everything is derived from the seed, the voter's name and the file of votes, so a reload, a restart or another device
goes on at the same battle.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from polite_flamingo.preference.votes.battles import Battle, Side, rank, turned
from polite_flamingo.preference.votes.log import Action, Vote, VoteLog, identity

LONGEST_NAME = 40
"""Characters of a voter's name."""

LONGEST_LOOK = 3600.0
"""Seconds: a battle that was open for longer was forgotten, not looked at."""

ON_SCREEN = ("left", "right", "tie", "both_bad", "skip")
"""What a voter can say of a battle."""


class UnknownBattle(LookupError):
    """A battle that this poll does not have."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a voter is: `voted` includes `skipped`; `can_undo` if there is a vote to take back."""

    voted: int
    skipped: int
    total: int
    can_undo: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A battle as a voter sees it."""

    battle: Battle
    left: Side
    right: Side


class Poll:
    """Battles, and what voters said of them."""

    def __init__(self, battles: Iterable[Battle], log: VoteLog, seed: int = 0):
        """Args: battles: to vote on; log: the file of votes; seed: of all orders."""
        self.battles = {battle.id: battle for battle in battles}
        self._log, self._seed = log, seed
        self._orders: dict[str, list[str]] = {}

    def upcoming(self, voter: str, most: int = 2) -> list[Shown]:
        """Return the next battles of a voter, at most so many; none at the end."""
        voted = self._log.of(voter)
        left = (self.battles[one] for one in self._order(voter) if one not in voted)
        return [self._shown(voter, battle) for battle, _ in zip(left, range(most), strict=False)]

    def progress(self, voter: str) -> Progress:
        """Return how far a voter is."""
        actions = [vote.action for battle, vote in self._log.of(voter).items() if battle in self.battles]
        return Progress(
            voted=len(actions), skipped=actions.count("skip"), total=len(self.battles), can_undo=bool(actions)
        )

    def vote(self, voter: str, battle: str, said: str, seconds: float) -> None:
        """Save a vote; a second one on the same battle replaces the first.

        Args:
            voter: a name of `cleaned`.
            battle: id of the battle.
            said: one of `ON_SCREEN`.
            seconds: how long it was looked at.

        Raises:
            UnknownBattle: there is no such battle.
            OSError: the vote is not saved.
        """
        if battle not in self.battles:
            raise UnknownBattle(battle)
        self._save(voter, battle, said, seconds)

    def undo(self, voter: str) -> str:
        """Take the last vote of a voter back, and return which text it preferred, as in `ON_SCREEN`; "" for none."""
        voted = [vote for battle, vote in self._log.of(voter).items() if battle in self.battles]
        if not voted:
            return ""
        last = voted[-1]
        self._save(voter, last.battle, "undo", 0.0)
        if last.action not in ("first", "second"):
            return last.action
        return "left" if last.action == last.left else "right"

    def reopen(self, voter: str) -> int:
        """Show the skipped battles of a voter again, and return their number."""
        skipped = [one for one, vote in self._log.of(voter).items() if vote.action == "skip" and one in self.battles]
        for battle in skipped:
            self._save(voter, battle, "undo", 0.0)
        return len(skipped)

    def _save(self, voter: str, battle: str, said: str, seconds: float) -> None:
        shown = self._shown(voter, self.battles[battle])
        left = "first" if shown.left is shown.battle.first else "second"
        other = "second" if left == "first" else "first"
        action: Action = {"left": left, "right": other}.get(said, said)  # type: ignore[assignment]
        one = shown.battle
        self._log.append(
            Vote(
                voter=voter, battle=battle, action=action, left=left,
                seconds=round(min(max(seconds, 0.0), LONGEST_LOOK), 2),
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                kind=one.kind, key=one.key, turn=one.turn, first=one.first.name, second=one.second.name,
                first_number=one.first.number, second_number=one.second.number,
            )
        )  # fmt: skip

    def _order(self, voter: str) -> list[str]:
        who = identity(voter)
        if who not in self._orders:
            self._orders[who] = sorted(self.battles, key=lambda battle: rank(f"{self._seed}/{who}/{battle}"))
        return self._orders[who]

    def _shown(self, voter: str, battle: Battle) -> Shown:
        sides = battle.first, battle.second
        if turned(f"{self._seed}/{identity(voter)}/{battle.id}/left"):
            sides = sides[::-1]
        return Shown(battle=battle, left=sides[0], right=sides[1])


def cleaned(name: str) -> str:
    """Return a voter's name without odd spaces and control characters.

    Raises:
        ValueError: nothing is left of it, or it is too long.
    """
    found = " ".join(unicodedata.normalize("NFC", name).split())
    found = "".join(letter for letter in found if unicodedata.category(letter)[0] != "C")
    if not found:
        raise ValueError("type a name, so that your votes can be told from those of others")
    if len(found) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} characters")
    return found
