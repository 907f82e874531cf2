"""The page of results: ratings with intervals, agreement with people, voters, and the battles worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.formatting import trimmed
from polite_flamingo.preference.votes.battles import Battle, Side
from polite_flamingo.preference.votes.log import Vote
from polite_flamingo.preference.votes.ratings import Rated
from polite_flamingo.preference.votes.results import Results, opinions
from polite_flamingo.report.comparison import interval
from polite_flamingo.report.gallery import Thumbnail, thumbnail, turns_before
from polite_flamingo.report.svg import LETTER, Frame, fitted, picture, words
from polite_flamingo.report.template import fill

FOLDER = Path(__file__).parent

KIND_NAMES = {
    "rewriting": "Rewritten against raw",
    "pairs": "Pairs for training",
    "answers": "Answers of models",
}
MOST_CARDS = 8
"""Most battles that are shown."""


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A battle on which a machine contradicts people, or people each other."""

    battle: Battle
    preferred: Side | None
    why: str
    pictures: Sequence[Thumbnail]


def page(
    found: Results,
    battles: Mapping[str, Battle],
    votes: Sequence[Vote],
    *,
    about: Sequence[tuple[str, str]],
    resampling: Resampling,
) -> str:
    """Return the page as HTML.

    Args:
        found: the figures.
        battles: id -> battle.
        votes: those that count.
        about: what was voted on, as (name, value).
        resampling: how the intervals were made.
    """
    return fill(
        "votes",
        styles=("chart_types", "selection"),
        folder=FOLDER,
        found=found,
        kinds=KIND_NAMES,
        tables=[(table, chart(KIND_NAMES[table.kind], table.people)) for table in found.tables],
        said={name: found.votes.get(name, 0) for name in ("tie", "both_bad", "skip")},
        made=sum(count for name, count in found.votes.items() if name != "skip"),
        disputes=disputes(battles, votes),
        before=turns_before,
        about=about,
        confidence=f"{resampling.confidence:.0%}",
        interval=interval,
        elo=elo,
    )


def elo(one: Rated) -> str:
    """Return a rating with its interval, such as 1,034 (1,002 to 1,070)."""
    rating = one.rating
    if rating.value is None:
        return "–"
    between = "" if rating.low is None or rating.high is None else f" ({rating.low:,.0f} to {rating.high:,.0f})"
    return f"{rating.value:,.0f}{between}"


def chart(title: str, rated: Sequence[Rated]) -> Markup:
    """Draw each rating as a dot with the line of its interval, the best on top."""
    known = [one for one in rated if one.rating.value is not None]
    ends = [end for one in known for end in (one.rating.value, one.rating.low, one.rating.high) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (1000.0, 1000.0)
    margin = max(20.0, 0.08 * (high - low))
    left = min(240.0, 24 + LETTER * max((len(one.name) for one in known), default=0))
    step, above = 30.0, 6.0
    height = above + step * len(known) + 24
    frame = Frame(
        width=760, height=height, across=(low - margin, high + margin), left=left, right=16, above=above, below=24
    )
    body = [frame.columns(6)]
    for place, one in enumerate(known):
        rating, y = one.rating, above + step * (place + 0.5)
        assert rating.value is not None
        body.append(words(left - 10, y + 4, fitted(one.name, left - 12), kind="name", anchor="end"))
        if rating.low is not None and rating.high is not None:
            a, b = frame.x(rating.low), frame.x(rating.high)
            line = f"M{a:.1f} {y - 5:.1f}v10M{a:.1f} {y:.1f}H{b:.1f}M{b:.1f} {y - 5:.1f}v10"
            body.append(f'<path class="whisker" d="{line}"/>')
        body.append(f'<circle class="dot fill0" cx="{frame.x(rating.value):.1f}" cy="{y:.1f}" r="5"/>')
    return picture(f"{title}: ratings", 760, height, body, fills=True)


def disputes(battles: Mapping[str, Battle], votes: Sequence[Vote]) -> list[Dispute]:
    """Return the battles on which a machine contradicts people most clearly, then those on which voters differ."""
    known = [vote for vote in votes if vote.battle in battles and vote.action in ("first", "second")]
    preferred = opinions(known)
    strong: dict[str, list[tuple[float, str]]] = {}
    for name, opinion in preferred.items():
        for rater, margin in battles[name].margins.items():
            if margin * opinion < 0:
                why = f"{rater} prefers the other text, by {trimmed(abs(margin), 2)}"
                strong.setdefault(rater, []).append((-abs(margin), f"{name} {why}"))
    lists = [[line for _, line in sorted(found)] for _, found in sorted(strong.items())]
    turns = [line for turn in range(MOST_CARDS) for found in lists for line in found[turn : turn + 1]]
    turns += [f"{name} voters prefer different texts" for name, opinion in preferred.items() if opinion == 0]
    reasons: dict[str, str] = {}
    for line in turns:
        name, _, why = line.partition(" ")
        reasons[name] = f"{reasons[name]}; {why}" if name in reasons else why
    return [
        Dispute(
            battle=battle,
            preferred={1: battle.first, -1: battle.second}.get(preferred[name]),
            why=why,
            pictures=[thumbnail(image.data) for image in battle.sample.images[:2]],
        )
        for name, why in [*reasons.items()][:MOST_CARDS]
        if (battle := battles[name])
    ]
