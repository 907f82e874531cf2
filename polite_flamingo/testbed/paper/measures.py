"""Compute means over seeds from the numbers of all samples, with two kinds of interval.

    over seeds      Student's t on the means of the seeds (degrees of freedom: seeds - 1): what another repetition, with
                    other scenes and other initial weights, could give. It is wide with three seeds, and verdicts are
                    based on it.
    within seeds    samples resampled within each seed (`evaluation/bootstrap.py`), then the mean over the seeds: what
                    other samples could give for these models. Both sides of a difference use the same draws.

A `Measure` takes one number per sample; comparisons subtract sample by sample, so that easy and hard samples cancel
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Resampling, resampled_means
from polite_flamingo.evaluation.judging import RAW
from polite_flamingo.testbed.paper.results import Generation, HeldOut, PaperResults, Rewrite, Role, Seed

Values = list[np.ndarray]
"""The numbers of one seed: the mean of each array is taken, and the sum of the means is the seed's number."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds.

    Attributes:
        value: the mean; None if no seed has a number.
        low: lower end of the interval over seeds; None with fewer than two seeds.
        high: upper end of the same interval.
        within: interval within seeds; None if a seed has fewer than two samples.
        seeds: the number of each seed that has one.
    """

    value: float | None
    low: float | None
    high: float | None
    within: tuple[float, float] | None
    seeds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a model.

    Attributes:
        label: its name on the page.
        metric: one of `evaluation.metrics.METRICS`, or "win": 1 if the reward is above the annotation's, ½ if equal.
        domains: domains of the sets to measure on; see `HeldOut`.
        tasks: tasks of the sets to measure on; empty for all.
        scale: factor by which numbers are multiplied to show them.
        digits: decimals to show.
        unit: text after the number.
    """

    label: str
    metric: str
    domains: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    scale: float = 1.0
    digits: int = 2
    unit: str = ""

    def takes(self, held_out: HeldOut) -> bool:
        """Whether a set's samples count."""
        return held_out.domain in self.domains and (not self.tasks or held_out.task in self.tasks)


def _share(label: str, metric: str, domains: tuple[str, ...], *tasks: str, unit: str = " %") -> Measure:
    return Measure(label=label, metric=metric, domains=domains, tasks=tasks, scale=100, digits=1, unit=unit)


ANSWERED = ("vqa", "vqa_rationale")
PICTURES = ("in", "out")

MEASURES: dict[str, Measure] = {
    "accuracy_in": _share("accuracy, in domain", "accuracy", ("in",), *ANSWERED),
    "accuracy_out": _share("accuracy, out of domain", "accuracy", ("out",), *ANSWERED),
    "politeness": Measure(label="politeness (reward)", metric="reward", domains=PICTURES),
    "win": _share("preferred to the annotation", "win", PICTURES),
    "captions": _share("captions, Rouge-L", "rouge_l", ("in",), "captioning", unit=""),
    "changes_sts": _share("two pictures, STS", "sts", ("in",), "change_captioning", unit=""),
    "changes_rouge": _share("two pictures, Rouge-L", "rouge_l", ("in",), "change_captioning", unit=""),
    "text_accuracy": _share("text, accuracy", "accuracy", ("text",)),
    "text_politeness": Measure(label="text, politeness (reward)", metric="reward", domains=("text",)),
}
"""Rouge-L and STS are shown in hundredths, as in the paper's tables."""


def spread(seeds: Sequence[Values], resampling: Resampling | None = None) -> Spread:
    """Return the mean of the seeds' numbers, with its intervals. Seeds without a number are left out."""
    resampling = resampling or Resampling()
    numbers: list[float] = []
    total_R = np.zeros(resampling.draws)
    sure = True
    for place, values in enumerate(seeds):
        known = [one[np.isfinite(one)] for one in values]
        if not known or any(not one.size for one in known):
            continue
        numbers.append(float(sum(one.mean() for one in known)))
        sure &= all(one.size > 1 for one in known)
        for part, one in enumerate(known):
            total_R += resampled_means(one[None], resampling, stream=1000 * place + part)[0]
    if not numbers:
        return Spread(value=None, low=None, high=None, within=None, seeds=())
    value = float(np.mean(numbers))
    reach = _reach(numbers, resampling.confidence)
    ends = np.quantile(total_R / len(numbers), [(1 - resampling.confidence) / 2, (1 + resampling.confidence) / 2])
    return Spread(
        value=value,
        low=None if reach is None else value - reach,
        high=None if reach is None else value + reach,
        within=(float(ends[0]), float(ends[1])) if sure else None,
        seeds=tuple(numbers),
    )


def _reach(numbers: Sequence[float], confidence: float) -> float | None:
    """Return half the width of Student's interval; None for fewer than two numbers."""
    from scipy.special import stdtrit  # scipy.stats has the same, and takes seconds to import

    if len(numbers) < 2:
        return None
    error = float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return float(stdtrit(len(numbers) - 1, (1 + confidence) / 2)) * error


def of_model(results: PaperResults, role: Role, measure: Measure) -> list[np.ndarray]:
    """Return one array per seed: a number per sample of the measure's sets, NaN if there is none."""
    sets = [name for name, held_out in results.sets.items() if measure.takes(held_out)]
    return [_numbers(seed, results.roles[role], measure.metric, sets) for seed in results.seeds]


def _numbers(seed: Seed, contestant: str, metric: str, sets: Collection[str]) -> np.ndarray:
    if metric == "win":
        gain = _numbers(seed, contestant, "reward", sets) - _numbers(seed, RAW, "reward", sets)
        return np.where(np.isfinite(gain), (np.sign(gain) + 1) / 2, np.nan)
    numbers = seed.judged.scores[contestant][metric]
    found = [numbers[place] for place, name in enumerate(seed.judged.tasks) if name in sets]
    return np.array([math.nan if one is None else one for one in found], dtype=float)


def level(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the mean of a model."""
    return spread([[one] for one in of_model(results, role, MEASURES[measure])])


def gain(results: PaperResults, role: Role, over: Role, measure: str) -> Spread:
    """Return the mean of a model minus that of another, sample by sample."""
    pairs = zip(
        of_model(results, role, MEASURES[measure]), of_model(results, over, MEASURES[measure]), strict=True
    )  # fmt: skip
    return spread([[one - other] for one, other in pairs])


def tax(results: PaperResults, role: Role, measure: str) -> Spread:
    """Return the alignment tax ([PF], definition 1): the text-only model's lead, summed over the sets."""
    whole = MEASURES[measure]
    sets = [name for name, held_out in results.sets.items() if whole.takes(held_out)]
    return spread([
        [
            _numbers(seed, results.roles["text_only"], whole.metric, [name])
            - _numbers(seed, results.roles[role], whole.metric, [name])
            for name in sets
        ]
        for seed in results.seeds
    ])  # fmt: skip


def of_annotations(results: PaperResults, measure: str) -> Spread:
    """Return the mean of the annotations themselves."""
    sets = [name for name, held_out in results.sets.items() if MEASURES[measure].takes(held_out)]
    return spread([[_numbers(seed, RAW, MEASURES[measure].metric, sets)] for seed in results.seeds])


REWRITING: dict[str, Measure] = {
    "reward_raw": Measure(label="reward of the annotation", metric="reward_raw", domains=()),
    "reward": Measure(label="reward of the rewritten text", metric="reward", domains=()),
    "unchanged": _share("left unchanged", "unchanged", ()),
    "clip": Measure(label="CLIPScore", metric="clip", domains=()),
}
"""What is measured on rewritten annotations."""

NUMBERS: dict[str, Callable[[Rewrite], float | None]] = {
    "reward_raw": lambda row: row.reward_raw,
    "reward": lambda row: row.reward,
    "unchanged": lambda row: float(row.unchanged),
    "clip": lambda row: row.clip,
}


def of_rewrites(
    results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()
) -> list[dict[str, float]]:
    """Return one dictionary per seed: key -> number of each annotation that a generation rewrote.

    Args:
        results: the repetition's results.
        generation: the rewriter's generation.
        number: one of `NUMBERS`.
        datasets: datasets of the annotations; empty for all.
    """
    found = []
    for seed in results.seeds:
        rows = [row for row in seed.rewrites.get(generation, ()) if not datasets or row.dataset in datasets]
        numbers = {row.key: NUMBERS[number](row) for row in rows}
        found.append({key: one for key, one in numbers.items() if one is not None and math.isfinite(one)})
    return found


def rewritten(results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()) -> Spread:
    """Return the mean of a generation's rewrites."""
    seeds = of_rewrites(results, generation, number, datasets)
    return spread([[np.array(list(one.values()))] for one in seeds])


def between(
    results: PaperResults, one: tuple[Generation, str], other: tuple[Generation, str], datasets: Collection[str] = ()
) -> Spread:
    """Return the mean difference of two numbers (generation, name), over the annotations that have both."""
    pairs = zip(of_rewrites(results, *one, datasets), of_rewrites(results, *other, datasets), strict=True)
    return spread([[np.array([a[key] - b[key] for key in a if key in b])] for a, b in pairs])


def shown(value: float | None, measure: Measure, *, sign: bool = False, unit: bool = True) -> str:
    """Format a number of a measure, with a typographic minus; a dash for None."""
    if value is None:
        return "–"
    text = f"{measure.scale * value:{'+' if sign else ''}.{measure.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") + (measure.unit if unit else "")
