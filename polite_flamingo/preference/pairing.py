"""From rated answers to a preference pair: an answer's score, and which two answers of a prompt make its pair.

The paper (Li, Lin, Pei 2024, arXiv 2402.10884; `findalexli/mllm-dpo`): score = helpfulness + correctness + coherence,
0 to 12. Chosen is the best answer, of ties the first; rejected is a random one at least 2 below it. Theirs is unseeded;
here it depends on the seed and the sample's key alone. A prompt gives one pair at most, or a reason why none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from polite_flamingo.candidates import ATTRIBUTES, MOST, Candidate, Rating
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, Sample
from polite_flamingo.seeds import seed_number
from polite_flamingo.text_files import is_writable

REWARD = "reward"
"""The value of a judge that gives one number."""

WEIGHTS = (1.0, 1.0, 1.0, 0.0, 0.0)
"""Of helpfulness, correctness, coherence, complexity and verbosity in the paper's score."""

TOO_CLOSE = ("equal_scores", "too_close")
"""Reasons of prompts whose best and worst answers differ by less than the margin."""

FAILED = ("too_few_answers", "empty_answers", "bad_answers", "equal_answers", "not_rated")
"""Reasons of prompts without two different answers that have a score; a bad row of a shard adds its own reason."""

_ROUNDING = 1e-9
"""Means of ratings are binary fractions, so 9.1 - 7.1 may fall short of 2 by this much."""


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    """How pairs are made of rated answers.

    Attributes:
        weights: of helpfulness, correctness, coherence, complexity and verbosity in an answer's score.
        margin: least difference between the scores of chosen and rejected.
        rule: which answer is rejected; a random one of those at least `margin` below the best, or the worst.
        judge: whose ratings count; may be omitted if there is only one judge.
        expected: use the ratings expected by the judge's log-probabilities where there are any.
        flips: share of pairs whose sides are swapped, to study noisy labels.
        fraction: share of pairs that are written, to study the scale of data; smaller shares are part of larger ones.
        seed: of the rejected answer, the flips and the fraction.
    """

    weights: tuple[float, ...] = WEIGHTS
    margin: float = 2.0
    rule: Literal["random", "worst"] = "random"
    judge: str = ""
    expected: bool = False
    flips: float = 0.0
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for settings under which no pair means anything."""
        check_weights(self.weights)
        if not self.margin > 0:
            raise ValueError("margin: must be above 0, because equal scores prefer neither answer")
        if not 0 <= self.flips <= 1 or not 0 < self.fraction <= 1:
            raise ValueError("flips must lie in [0, 1] and fraction in (0, 1]")


def check_weights(weights: Sequence[float]) -> None:
    """Raise ValueError for weights that give no score."""
    if len(weights) != len(ATTRIBUTES) or not any(weights):
        raise ValueError(f"weights: must be {len(ATTRIBUTES)} numbers ({', '.join(ATTRIBUTES)}), not all 0")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer with its score.

    Attributes:
        candidate: the answer.
        means: attribute -> mean over its ratings; {"reward": …} of a judge of one number.
        score: weighted sum of the means, or the reward.
    """

    candidate: Candidate
    means: Mapping[str, float]
    score: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two sides of a pair."""

    chosen: Scored
    rejected: Scored


@dataclass(frozen=True, kw_only=True)
class NoPair:
    """Why a prompt gives no pair: one of `TOO_CLOSE` or `FAILED`, and one line of detail."""

    reason: str
    detail: str


def judges_of(samples: Iterable[Sample]) -> set[str]:
    """Return the names of everyone who rated an answer of these samples."""
    return {
        rating.judge
        for sample in samples
        for candidate in sample.candidates
        for rating in candidate.ratings
        if not rating.blind
    }


def mean_ratings(ratings: Iterable[Rating], judge: str, *, expected: bool = False) -> dict[str, float]:
    """Return attribute -> mean over a judge's ratings of one answer, without those made of a black picture.

    Args:
        ratings: all ratings of the answer.
        judge: whose ratings count; "" counts everyone's.
        expected: use `Rating.expected` where a rating has it.
    """
    found: dict[str, list[float]] = {}
    for rating in ratings:
        if not rating.blind and judge in ("", rating.judge):
            for name, value in numbers_of(rating, expected=expected).items():
                found.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def numbers_of(rating: Rating, *, expected: bool = False) -> dict[str, float]:
    """Return attribute -> number of one rating, without values that can be no rating.

    A judge that broke its own schema counts as one that did not rate.

    Args:
        rating: as the judge gave it.
        expected: use `Rating.expected` where it has any.
    """
    values = {**rating.values, **rating.expected} if expected else rating.values
    return {name: float(value) for name, value in values.items() if _is_rating(name, value)}


def _is_rating(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return name == REWARD or (name in ATTRIBUTES and 0 <= value <= MOST)


def score(means: Mapping[str, float], weights: Iterable[float]) -> float | None:
    """Return the weighted sum of an answer's mean ratings; None if one that has a weight is missing.

    A judge of one number gives its reward, whatever the weights.
    """
    if REWARD in means and not any(name in means for name in ATTRIBUTES):
        return means[REWARD]
    needed = {name: weight for name, weight in zip(ATTRIBUTES, weights, strict=True) if weight}
    if not needed.keys() <= means.keys():
        return None
    return math.fsum(weight * means[name] for name, weight in needed.items())


def is_usable(text: str) -> bool:
    """Whether an answer can be trained on: not empty, not huge, writable, without a mark that would show a picture."""
    return bool(text.strip()) and len(text) <= MAX_TEXT_CHARACTERS and is_writable(text) and IMAGE_MARK not in text


def scored(sample: Sample, config: PairingConfig, leave_out: Collection[str] = ()) -> list[Scored]:
    """Return the usable answers that have a score, in order.

    Args:
        sample: its candidates are the answers.
        config: judge and weights.
        leave_out: models whose answers do not count.
    """
    return [*_scored(sample, config, leave_out)]


def _scored(sample: Sample, config: PairingConfig, leave_out: Collection[str]) -> Iterator[Scored]:
    for candidate in sample.candidates:
        if candidate.model not in leave_out and is_usable(candidate.text):
            means = mean_ratings(candidate.ratings, config.judge, expected=config.expected)
            if (total := score(means, config.weights)) is not None:
                yield Scored(candidate=candidate, means=means, score=total)


def best(answers: Iterable[Scored]) -> Scored:
    """Return the answer with the greatest score, of ties the first."""
    return max(answers, key=lambda one: one.score)


def pair_of(sample: Sample, config: PairingConfig, leave_out: Collection[str] = ()) -> Pair | NoPair:
    """Make the pair of a prompt, or say why there is none.

    Args:
        sample: a prompt with its rated answers.
        config: how pairs are made.
        leave_out: models whose answers do not count.
    """
    answers = scored(sample, config, leave_out)
    if len(distinct := {_plain(one.candidate.text) for one in answers}) < 2:
        return _too_few(sample, leave_out, rated=len(answers), distinct=len(distinct))
    top = best(answers)
    others = [one for one in answers if _plain(one.candidate.text) != _plain(top.candidate.text)]
    below = [one for one in others if top.score - one.score >= config.margin - _ROUNDING]
    if not below:
        apart = top.score - min(one.score for one in others)
        reason = "too_close" if apart > _ROUNDING else "equal_scores"
        return NoPair(reason=reason, detail=f"best and worst are {apart:g} apart, the margin is {config.margin:g}")
    if config.rule == "worst":
        return Pair(chosen=top, rejected=min(below, key=lambda one: one.score))
    place = seed_number(f"{config.seed}/rejected/{sample.key}") % len(below)
    return Pair(chosen=top, rejected=below[place])


def _too_few(sample: Sample, leave_out: Collection[str], *, rated: int, distinct: int) -> NoPair:
    """Say why a prompt has no two different answers with a score: the first step at which fewer than two were left."""
    given = [one.text for one in sample.candidates if one.model not in leave_out]
    filled = [text for text in given if text.strip()]
    usable = [text for text in filled if is_usable(text)]
    for left, reason, says in (
        (len(given), "too_few_answers", "answers"),
        (len(filled), "empty_answers", "answers that are not empty"),
        (len(usable), "bad_answers", "answers that can be trained on (too long, a lone surrogate, or an <image>)"),
        (rated, "not_rated", "answers with all the ratings that the score needs"),
        (distinct, "equal_answers", "different answers"),
    ):
        if left < 2:
            return NoPair(reason=reason, detail=f"{left} {says}, a pair needs two")
    raise AssertionError("there are two different answers")


def _plain(text: str) -> str:
    """Return a text for comparison: two that differ only in white space are one answer."""
    return " ".join(text.split())


def first_share(keys: Iterable[str], share: float, seed: int, what: str) -> set[str]:
    """Return a seeded share of keys, exact to one key; a smaller share is part of a larger one.

    Args:
        keys: distinct keys, in any order.
        share: in [0, 1].
        seed: of the study.
        what: tells the choices of one study apart ("flips", "fraction").
    """
    ranked = sorted(keys, key=lambda key: (seed_number(f"{seed}/{what}/{key}"), key))
    return set(ranked[: round(share * len(ranked))])
