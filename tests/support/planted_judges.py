"""Rated answers to questions about drawn scenes, by judges with known faults: what an auditor must find.

Each prompt has four answers of different quality, whose lengths have nothing to do with it. A judge rates them from
their true ratings; a fault is a function that changes what it would say.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polite_flamingo.candidates import ATTRIBUTES, MOST, Candidate, Rating
from polite_flamingo.sample import Sample
from polite_flamingo.testbed.shapes.exam import exam

TRUTH: Mapping[str, tuple[int, ...]] = {
    "right": (4, 4, 4, 2, 2),
    "vague": (3, 2, 4, 1, 2),
    "wrong": (1, 0, 4, 2, 2),
    "garbled": (0, 0, 1, 1, 2),
    "rude": (2, 1, 3, 2, 2),
}
"""Quality of an answer -> its true ratings, all of different sums."""

FILLER = "I looked at the picture with care and took my time before I said this"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One answer as a judge sees it."""

    quality: str
    text: str
    place: int
    shown: int
    blind: bool
    rng: random.Random


Judge = Callable[[Seen], Sequence[int]]
"""Gives the five ratings of an answer."""


def clean(seen: Seen) -> list[int]:
    """See what is there, and waver by one point now and then; without the picture only garbling shows."""
    truth = TRUTH[seen.quality] if not seen.blind or seen.quality == "garbled" else (2, seen.rng.randint(0, 4), 4, 2, 2)
    return [clipped(one + (seen.rng.choice((-1, 1)) if seen.rng.random() < 0.1 else 0)) for one in truth]


def likes_the_first(seen: Seen) -> list[int]:
    """Give the answer that stands first a point more for each attribute that counts."""
    first = seen.place == 0 and seen.shown > 1
    return [clipped(one + (first and place < 3)) for place, one in enumerate(clean(seen))]


def likes_the_long(seen: Seen) -> list[int]:
    """Rate by length, and a little by quality."""
    length = len(seen.text.split()) / 16 * MOST
    return [clipped(round(0.3 * one + 0.7 * length)) if n < 3 else one for n, one in enumerate(clean(seen))]


def cannot_see(seen: Seen) -> list[int]:
    """Rate by how the text sounds, whatever the picture shows."""
    quality = random.Random(seen.text).choice(sorted(TRUTH))
    return clean(dataclasses.replace(seen, quality=quality, blind=False))


def clipped(number: int) -> int:
    return max(0, min(MOST, number))


@functools.cache
def prompts(count: int, seed: int = 0) -> tuple[tuple[Sample, tuple[str, ...]], ...]:
    """Questions with four unrated answers each, and the answers' qualities."""
    found = []
    for item in exam("in", count, seed):
        rng = random.Random(f"{seed}/{item.sample.key}")
        qualities = tuple(rng.sample(sorted(TRUTH), 4))
        texts = [f"{said(quality, item.sample, rng)} {padding(rng)}".strip() for quality in qualities]
        candidates = tuple(Candidate(text=text, model="flamingo", number=n) for n, text in enumerate(texts))
        found.append((dataclasses.replace(item.sample, candidates=candidates), qualities))
    return tuple(found)


def said(quality: str, sample: Sample, rng: random.Random) -> str:
    if quality == "garbled":
        return f"the the {rng.choice('abc')} of of."
    right = sample.turns[-1].response.removeprefix("Answer: ").split("\n")[0]
    return {"right": f"It is {right}.", "vague": f"Maybe {right}?", "rude": f"{right}, of course."}.get(
        quality, f"It is nothing like {right}."
    )


def padding(rng: random.Random) -> str:
    return " ".join(FILLER.split()[: rng.randint(0, 15)])


def rate(
    sample: Sample, qualities: Sequence[str], judge: Judge, *, name: str = "judge", orders: int = 4, samples: int = 1,
    alone: bool = True, blind: int = 1, flips: float = 0.0, seed: int = 0,
) -> Sample:  # fmt: skip
    """Add a judge's ratings as `polite-flamingo rate` does.

    Args:
        sample: with candidates.
        qualities: of the candidates.
        judge: who rates.
        name: the judge's.
        orders: rotations in which the answers are shown together.
        samples: how often each of them is asked.
        alone: whether each answer is also rated alone.
        blind: how often they are shown together with a black picture.
        flips: share of requests in which the order of the ratings is turned round.
        seed: of the judge's wavering.
    """
    rng = random.Random(f"{seed}/{name}/{sample.key}")
    ratings: list[list[Rating]] = [[*candidate.ratings] for candidate in sample.candidates]
    first = [*range(len(qualities))]
    rng.shuffle(first)

    def ask(shown: Sequence[int], number: int, *, black: bool = False) -> None:
        values = [
            judge(
                Seen(
                    quality=qualities[answer], text=sample.candidates[answer].text, place=place, shown=len(shown),
                    blind=black, rng=rng,
                )
            )
            for place, answer in enumerate(shown)
        ]  # fmt: skip
        if rng.random() < flips:  # the best gets the ratings of the worst, and so on
            ranked = sorted(range(len(values)), key=lambda place: sum(values[place][:3]))
            values = [values[ranked[-1 - ranked.index(place)]] for place in range(len(values))]
        for place, answer in enumerate(shown):
            found = dict(zip(ATTRIBUTES, values[place], strict=True))
            why = f"{qualities[answer]}, I would say"
            ratings[answer].append(
                Rating(judge=name, values=found, reason=why, place=place, shown=len(shown), sample=number, blind=black)
            )

    for turn in range(orders):
        for number in range(samples):
            ask(first[turn:] + first[:turn], number)
    for answer in first if alone else ():
        ask([answer], 0)
    for number in range(blind):
        ask(first, number, black=True)
    candidates = zip(sample.candidates, ratings, strict=True)
    rated = tuple(dataclasses.replace(one, ratings=tuple(found)) for one, found in candidates)
    return dataclasses.replace(sample, candidates=rated)


def exact(seen: Seen) -> Sequence[int]:
    """The rule: the true ratings."""
    return TRUTH[seen.quality]


def rated(count: int, judge: Judge, *, reference: bool = False, seed: int = 0, **how: object) -> list[Sample]:
    """Prompts rated by a judge and, if wanted, by the exact rule."""
    found = [rate(sample, qualities, judge, seed=seed, **how) for sample, qualities in prompts(count)]  # type: ignore[arg-type]
    if not reference:
        return found
    both = zip(found, prompts(count), strict=True)
    return [
        rate(one, qualities, exact, name="rule", orders=0, blind=0) for one, (_, qualities) in both
    ]  # fmt: skip
