"""Answers that a model gave to one prompt, and how judges rated them: what preference pairs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What a judge rates, each 0 to 4 (HelpSteer's attributes; arXiv 2402.10884)."""

MOST = 4
"""The best rating of an attribute."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One judgement of one answer.

    Attributes:
        judge: who judged: "rule", "reward", or the endpoint's model as it named itself.
        values: attribute -> rating, an integer 0 to 4; means over samples and expectations over log-probabilities are
            computed from several ratings and never stored as one. A scalar judge has {"reward": its number} alone.
        reason: what the judge wrote before it rated; "" if it gave no reason.
        place: place of the answer among those shown together, from 0.
        shown: number of answers shown together; 1 if it was rated alone.
        sample: number of the sample, from 0, where the judge was asked the same several times.
        expected: attribute -> mean rating by the tokens' log-probabilities, where the server gives them.
        blind: whether the judge was shown a black picture instead, which the auditor does.
        tokens: prompt and completion tokens of the request, divided by the answers that it rated.
        cost: price of those tokens, in the profile's currency.
    """

    judge: str
    values: Mapping[str, float]
    reason: str = ""
    place: int = 0
    shown: int = 1
    sample: int = 0
    expected: Mapping[str, float] = field(default_factory=dict)
    blind: bool = False
    tokens: tuple[float, float] = (0.0, 0.0)
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer to the last question of a sample.

    Attributes:
        text: the answer.
        model: who gave it.
        number: its number, from 0; it seeds the sampling together with the sample's key.
        tokens: number of tokens, or of words where the server does not say.
        cut: whether it ended at the limit of tokens.
        ratings: all of them, in the order in which they were made.
    """

    text: str
    model: str = ""
    number: int = 0
    tokens: int = 0
    cut: bool = False
    ratings: tuple[Rating, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Convert to JSON types; `from_record` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Candidate:
        """Read what `to_record` wrote. Raises TypeError or KeyError for anything else."""
        ratings = tuple(Rating(**{**one, "tokens": tuple(one.get("tokens", (0, 0)))}) for one in record["ratings"])
        return Candidate(**{**record, "ratings": ratings})
