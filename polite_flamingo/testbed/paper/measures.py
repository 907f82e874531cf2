"""What the paper's repetition measures of models, and of rewritten annotations."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from polite_flamingo.evaluation.judging import RAW
from polite_flamingo.testbed.paper.results import Generation, PaperResults, Rewrite, Role
from polite_flamingo.testbed.study import measures
from polite_flamingo.testbed.study.measures import Measure, Spread, numbers_of, preferred, sets_of, share, spread

REWARD = 0.25
"""Margin of rewards: a twentieth of what rewriting gains in reward in the first study (5.4)."""


def _reward(label: str, domains: tuple[str, ...], *tasks: str, metric: str = "reward") -> Measure:
    return Measure(label=label, metric=metric, domains=domains, tasks=tasks, margin=REWARD)


ANSWERED = ("vqa", "vqa_rationale")
PICTURES = ("in", "out")

MEASURES: dict[str, Measure] = {
    "accuracy_in": share("accuracy, in domain", "right", ("in",), *ANSWERED),
    "accuracy_out": share("accuracy, out of domain", "right", ("out",), *ANSWERED),
    "nli_in": share("in domain, as NLI judges", "accuracy", ("in",), *ANSWERED),
    "nli_out": share("out of domain, as NLI judges", "accuracy", ("out",), *ANSWERED),
    "politeness": _reward("politeness (reward)", PICTURES, *ANSWERED),
    "win": share("preferred to the annotation", "win", PICTURES, *ANSWERED),
    "captions": share("captions, Rouge-L", "rouge_l", ("in",), "captioning", unit=""),
    "changes": share("two pictures, exact", "right", ("in",), "change_captioning"),
    "changes_sts": share("two pictures, STS", "sts", ("in",), "change_captioning", unit=""),
    "changes_rouge": share("two pictures, Rouge-L", "rouge_l", ("in",), "change_captioning", unit=""),
    "text_accuracy": share("text, accuracy", "right", ("text",)),
    "text_politeness": _reward("text, politeness (reward)", ("text",)),
}
"""Rouge-L and STS are shown in hundredths, as in the paper's tables."""


def of_model(results: PaperResults, role: Role, measure: Measure) -> np.ndarray:
    """Return a model's scores (seeds, questions of the measure's sets); missing ones are NaN."""
    if measure.metric != "win":
        return measures.of_model(results, role, measure)
    rewards = replace(measure, metric="reward")
    return preferred(measures.of_model(results, role, rewards), _annotations(results, rewards))


def _annotations(results: PaperResults, measure: Measure) -> np.ndarray:
    chosen = sets_of(results, measure)
    return np.stack([numbers_of(seed.judged, RAW, measure.metric, chosen) for seed in results.seeds])


def level(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the mean of a model."""
    return spread(of_model(results, role, MEASURES[measure]))


def gain(results: PaperResults, role: Role, over: Role, measure: str) -> Spread:
    """Return the mean of a model minus that of another, seed by seed and question by question."""
    return spread(of_model(results, role, MEASURES[measure]) - of_model(results, over, MEASURES[measure]))


def tax(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the alignment tax ([PF], definition 1), the text-only model's lead, as a mean over all text questions."""
    return gain(results, "text_only", role, measure)


def of_annotations(results: PaperResults, measure: str) -> Spread:
    """Return the mean of the annotations themselves."""
    return spread(_annotations(results, MEASURES[measure]))


REWRITING: dict[str, Measure] = {
    "reward_raw": _reward("reward of the annotation", (), metric="reward_raw"),
    "reward": _reward("reward of the rewritten text", ()),
    "unchanged": share("left unchanged", "unchanged", (), margin=0.01),
    "clip": Measure(label="CLIPScore", metric="clip", domains=(), margin=0.5),
}
"""What is measured on rewritten annotations. The paper's CLIPScores differ by 0.63."""

NUMBERS: dict[str, Callable[[Rewrite], float | None]] = {
    "reward_raw": lambda row: row.reward_raw,
    "reward": lambda row: row.reward,
    "unchanged": lambda row: float(row.unchanged),
    "clip": lambda row: row.clip,
}


def of_rewrites(
    results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()
) -> np.ndarray:
    """Return the scores (seeds, annotations) of what a generation rewrote; missing ones are NaN.

    Args:
        results: the repetition's results.
        generation: the rewriter's generation.
        number: one of `NUMBERS`.
        datasets: datasets of the annotations; empty for all.
    """
    every = [row for seed in results.seeds for rows in seed.rewrites.values() for row in rows]
    keys = list(dict.fromkeys(row.key for row in every if not datasets or row.dataset in datasets))
    tables = []
    for seed in results.seeds:
        found = {row.key: NUMBERS[number](row) for row in seed.rewrites.get(generation, ())}
        tables.append([math.nan if (one := found.get(key)) is None else one for key in keys])
    return np.array(tables, dtype=float).reshape(len(results.seeds), len(keys))


def rewritten(results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()) -> Spread:
    """Return the mean of a generation's rewrites."""
    return spread(of_rewrites(results, generation, number, datasets))


def between(
    results: PaperResults, one: tuple[Generation, str], other: tuple[Generation, str], datasets: Collection[str] = ()
) -> Spread:
    """Return the mean difference of two numbers (generation, name), over the annotations that have both."""
    return spread(of_rewrites(results, *one, datasets) - of_rewrites(results, *other, datasets))


def sides(results: PaperResults, roles: Sequence[Role], measure: str) -> list[Spread]:
    """Return the means of several models over the questions that all of them answered."""
    tables = [of_model(results, role, MEASURES[measure]) for role in roles]
    common = np.isfinite(np.stack(tables)).all(axis=0)
    return [spread(np.where(common, one, np.nan)) for one in tables]
