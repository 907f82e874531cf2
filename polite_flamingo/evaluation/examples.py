"""Choose samples to look at, and collect everybody's answers to them.

Some are sampled at random from each task (seeded); others are those whose rewards lie furthest apart: there the
contestants differ most, or the reward model errs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from polite_flamingo.endpoints.answers import without_reasoning
from polite_flamingo.evaluation.judging import RAW, REWRITTEN, Answer, Judged, first_turn
from polite_flamingo.evaluation.metrics import METRICS, shown
from polite_flamingo.sample import BadSample, Sample


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A sample to show. `apart` is the distance between its greatest and least reward; None if it is a random pick."""

    key: str
    task: str
    apart: float | None = None


@dataclass(frozen=True, kw_only=True)
class Said:
    """One contestant's answer ("" if `failed` says why there is none), and its scores as (label, formatted value)."""

    contestant: str
    text: str
    failed: str
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample with all answers to it."""

    pick: Pick
    sample: Sample
    said: tuple[Said, ...]


def choose(judged: Judged, count: int, seed: int = 0) -> list[Pick]:
    """Choose `count` samples at random, from each task in turn, and as many others whose rewards lie furthest apart."""
    by_task: dict[str, list[int]] = {}
    for place, task in enumerate(judged.tasks):
        by_task.setdefault(task, []).append(place)
    rng = random.Random(seed)
    sampled = [rng.sample(places, min(count, len(places))) for places in by_task.values()]
    turns = [places[turn] for turn in range(count) for places in sampled if turn < len(places)][:count]
    picks = [Pick(key=judged.keys[place], task=judged.tasks[place]) for place in turns]
    spread = []
    for place in set(range(len(judged.keys))) - set(turns):
        rewards = [one for name in judged.contestants if (one := judged.scores[name]["reward"][place]) is not None]
        if len(rewards) > 1:
            spread.append((max(rewards) - min(rewards), -place))
    for apart, place in sorted(spread, reverse=True)[:count]:
        picks.append(Pick(key=judged.keys[-place], task=judged.tasks[-place], apart=apart))
    return picks


def example(pick: Pick, sample: Sample, answers: Mapping[str, Mapping[str, Answer]], judged: Judged) -> Example:
    """Collect all answers to one sample.

    Args:
        pick: one of `choose`.
        sample: the sample as it is in its shard.
        answers: contestant -> key -> answer, without the annotations.
        judged: the scores of this sample, and of any others.
    """
    place = judged.keys.index(pick.key)
    sample = first_turn(sample)
    said = []
    for name in judged.contestants:
        answer: Answer | None = answers.get(name, {}).get(sample.key)
        if name in (RAW, REWRITTEN):
            answer = sample.response if name == RAW else sample.rewritten
        elif isinstance(answer, str):
            answer = without_reasoning(answer)
        numbers = tuple(
            (METRICS[metric].label.partition(" (")[0], "correct" if number else "wrong") if METRICS[metric].share
            else (METRICS[metric].label, shown(metric, number))
            for metric in METRICS
            if (number := judged.scores[name][metric][place]) is not None
        )  # fmt: skip
        text = answer if isinstance(answer, str) else ""
        failed = answer.reason if isinstance(answer, BadSample) else "no answer" if answer is None else ""
        said.append(Said(contestant=name, text=text, failed=failed, numbers=numbers))
    return Example(pick=pick, sample=sample, said=tuple(said))
