"""What the votes say: ratings, agreement of machines and of voters with people, and how the voting went.

People's opinion of a battle is what most of its voters say; where as many prefer one text as the other there is none.
Agreement counts battles on which both people and machine prefer one text, so ties are left out and counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from polite_flamingo.evaluation.agreement import kappa, measured, spearman
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling
from polite_flamingo.preference.votes.battles import KINDS, Battle, turned
from polite_flamingo.preference.votes.log import Vote, identity
from polite_flamingo.preference.votes.ratings import Match, Rated, ratings

PEOPLE = "people"


@dataclass(frozen=True, kw_only=True)
class WithPeople:
    """How far a rater agrees with people.

    Attributes:
        rater: a judge, the reward model, NLI, the pairs' labels, or `PEOPLE`.
        kind: of the battles.
        about: what the two sides of the comparison are.
        share: of the battles on which both have an opinion, how many they agree on.
        kappa: Cohen's kappa of the same battles.
        undecided: battles left out, because people or the rater prefer neither text.
    """

    rater: str
    kind: str
    about: str
    share: Estimate
    kappa: Estimate
    undecided: int


@dataclass(frozen=True, kw_only=True)
class Voter:
    """What one voter did. `seconds` is the median per vote; `left` is the share of preferred texts on the left."""

    name: str
    votes: int
    ties: int
    both_bad: int
    skipped: int
    seconds: float
    left: float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Ratings of one kind of battle.

    Attributes:
        kind: of the battles.
        people: the ratings by people's votes, the best first.
        machines: rater -> the ratings by its preferences on the same battles.
        ranks: rater -> Spearman's correlation of its ratings with people's; None for fewer than three texts.
    """

    kind: str
    people: Sequence[Rated]
    machines: Mapping[str, Sequence[Rated]]
    ranks: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All figures.

    Attributes:
        battles: number of battles that could be voted on.
        voted: number of those with a vote that was not skipped.
        votes: what was said -> how often; "skip" is among it, votes taken back are not.
        elsewhere: votes on battles that the input does not hold now: they count in the ratings only.
        voters: in the order of the alphabet.
        tables: a table per kind.
        agreements: raters with people.
        left: share of preferred texts that stood on the left; 50 % unless voters favour a side.
        seconds: median per vote.
    """

    battles: int
    voted: int
    votes: Mapping[str, int]
    elsewhere: int
    voters: Sequence[Voter]
    tables: Sequence[Table]
    agreements: Sequence[WithPeople]
    left: Estimate
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return asdict(self)


def results(battles: Mapping[str, Battle], votes: Sequence[Vote], resampling: Resampling) -> Results:
    """Compute everything.

    Args:
        battles: id -> battle, of the input as it is now.
        votes: those that count (`VoteLog.all`).
        resampling: of the intervals.
    """
    made = [vote for vote in votes if vote.action != "skip"]
    known = [vote for vote in made if vote.battle in battles]
    preferred = [vote for vote in made if vote.action in ("first", "second")]
    on_left = np.array([float(vote.action == vote.left) for vote in preferred])
    return Results(
        battles=len(battles),
        voted=len({vote.battle for vote in known}),
        votes=dict(Counter(vote.action for vote in votes).most_common()),
        elsewhere=len(made) - len(known),
        voters=list(_voters(votes)),
        tables=[_table(kind, battles, made, resampling) for kind in KINDS if any(vote.kind == kind for vote in made)],
        agreements=list(_agreements(battles, known, resampling)),
        left=measured(_same, on_left, np.ones_like(on_left), resampling),
        seconds=median(vote.seconds for vote in made) if made else None,
    )


def opinions(votes: Iterable[Vote]) -> dict[str, int]:
    """Return battle -> 1 if most voters prefer the first text, -1 for the second, 0 for neither."""
    return {battle: int(np.sign(sum(_sign(vote) for vote in found))) for battle, found in _by_battle(votes).items()}


def keepers(votes: Iterable[Vote]) -> dict[tuple[str, int | None], bool]:
    """Return key and turn -> whether people would keep the rewritten text, where most voters agree.

    It is kept unless the raw annotation is better or both are bad; a tie keeps it, since nothing is lost.
    """
    said: dict[tuple[str, int | None], int] = {}
    for vote in votes:
        if vote.kind == "rewriting" and vote.action != "skip":
            place = vote.key, vote.turn
            said[place] = said.get(place, 0) + (1 if vote.action in ("first", "tie") else -1)
    return {place: total > 0 for place, total in said.items() if total}


def labels(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Return the lines of labels.jsonl: whether to keep a rewritten text, and every choice between two answers.

    `polite-flamingo agreement --labels` reads the former, `polite-flamingo audit --labels` the latter; each passes over
    the other's. Answers go by their number among the candidates, so that a line stays true when pairs are made again
    by another rule; the sides of a pair that has no candidates are "chosen" and "rejected". Answers of an evaluation
    are no candidates, so no line names them.
    """
    kept = sorted(keepers(votes).items(), key=lambda one: (one[0][0], one[0][1] or 0))
    lines = [{"key": key, **({} if turn is None else {"turn": turn}), "keep": keep} for (key, turn), keep in kept]
    return [*lines, *(line for vote in votes if vote.action != "skip" and (line := _choice(vote)))]


def _choice(vote: Vote) -> dict[str, Any] | None:
    sides: tuple[Any, Any] = (vote.first_number, vote.second_number)
    if None in sides:
        if vote.kind != "pairs":
            return None
        sides = (vote.first, vote.second)
    return {"key": vote.key, "first": sides[0], "second": sides[1], "vote": vote.action, "voter": vote.voter}


def _sign(vote: Vote) -> int:
    return {"first": 1, "second": -1}.get(vote.action, 0)


def _by_battle(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.battle, []).append(vote)
    return found


def _voters(votes: Sequence[Vote]) -> Iterator[Voter]:
    by_voter: dict[str, list[Vote]] = {}
    for vote in votes:
        by_voter.setdefault(identity(vote.voter), []).append(vote)
    for _, found in sorted(by_voter.items()):
        said = Counter(vote.action for vote in found)
        made = [vote for vote in found if vote.action != "skip"]
        preferred = said["first"] + said["second"]
        on_left = sum(vote.action == vote.left for vote in made)
        yield Voter(
            name=found[0].voter, votes=len(made), ties=said["tie"], both_bad=said["both_bad"], skipped=said["skip"],
            seconds=median(vote.seconds for vote in made or found), left=on_left / preferred if preferred else None,
        )  # fmt: skip


def _table(kind: str, battles: Mapping[str, Battle], made: Sequence[Vote], resampling: Resampling) -> Table:
    by_battle = _by_battle(vote for vote in made if vote.kind == kind)
    matches = []
    for found in by_battle.values():
        said = Counter(vote.action for vote in found)
        wins, losses = said["first"], said["second"]
        one = found[0]
        matches.append(
            Match(first=one.first, second=one.second, wins=wins, losses=losses, ties=len(found) - wins - losses)
        )
    people = ratings(matches, resampling)
    machines: dict[str, Sequence[Rated]] = {}
    for rater in sorted({rater for name in by_battle if name in battles for rater in battles[name].margins}):
        theirs = [
            Match(
                first=battle.first.name, second=battle.second.name,
                wins=int(margin > 0), losses=int(margin < 0), ties=int(margin == 0),
            )
            for name in by_battle
            if (battle := battles.get(name)) and (margin := battle.margins.get(rater)) is not None
        ]  # fmt: skip
        machines[rater] = ratings(theirs, resampling)
    return Table(
        kind=kind, people=people, machines=machines,
        ranks={rater: _same_ranks(people, theirs) for rater, theirs in machines.items()},
    )  # fmt: skip


def _same_ranks(people: Sequence[Rated], others: Sequence[Rated]) -> float | None:
    theirs = {one.name: one.rating.value for one in others}
    both = [
        (one.rating.value, other)
        for one in people
        if one.rating.value is not None and (other := theirs.get(one.name)) is not None
    ]
    if len(both) < 3:
        return None
    value = spearman(*np.array(both).T)
    return value if np.isfinite(value) else None


def _agreements(battles: Mapping[str, Battle], known: Sequence[Vote], resampling: Resampling) -> Iterator[WithPeople]:
    """Compare every rater with people, by kind; and voters with each other."""
    preferred, kept = opinions(known), keepers(known)
    pairs: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for name, opinion in preferred.items():
        battle = battles[name]
        for rater, margin in battle.margins.items():
            pairs.setdefault((battle.kind, rater, "which text is better"), []).append((opinion, margin))
        keep = kept.get((battle.key, battle.turn))
        for rater, margin in battle.verdicts.items():
            people = 0 if keep is None else 1 if keep else -1
            pairs.setdefault((battle.kind, rater, "whether to keep the rewritten text"), []).append((people, margin))
    for name, found in _by_battle(known).items():
        if len(found) > 1:  # two of them, chosen by the battle: with all of them, rows would depend on each other
            two = sorted(found, key=lambda vote: identity(vote.voter))[:: 1 if turned(name) else -1][:2]
            one, other = map(_sign, two)
            what = (battles[name].kind, PEOPLE, "two voters, on which text is better")
            pairs.setdefault(what, []).append((one, other))
    for (kind, rater, about), rows in sorted(pairs.items(), key=lambda one: (KINDS.index(one[0][0]), one[0][1:])):
        decided = np.sign(np.array([row for row in rows if row[0] and row[1]], dtype=float).reshape(-1, 2))
        left_N, right_N = decided[:, 0], decided[:, 1]
        yield WithPeople(
            rater=rater,
            kind=kind,
            about=about,
            share=measured(_same, left_N, right_N, resampling),
            kappa=measured(kappa, left_N, right_N, resampling),
            undecided=len(rows) - len(decided),
        )


def _same(left_N: np.ndarray, right_N: np.ndarray) -> float:
    return float((left_N == right_N).mean()) if len(left_N) else float("nan")
