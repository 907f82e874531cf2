"""Numbers of all samples and seeds -> means over seeds, with two kinds of interval.

    over seeds      Student's t with one degree of freedom less than there are seeds, on the means of the seeds: what
                    another repetition, of other scenes and other fresh weights, could give. Wide with three seeds, and
                    the one that verdicts are made of.
    within seeds    samples drawn again within each seed (`evaluation/bootstrap.py`), then the mean over the seeds: what
                    other samples could give to these very models. Of a difference, both sides draw the same samples.

A `Measure` takes one number of each sample; what is compared is subtracted sample by sample, so that the samples' own
difficulty cancels out.
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
"""The numbers of one seed: a mean is taken of each array, and their sum is the seed's number."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds.

    Attributes:
        value: None where no seed has a number.
        low: of the interval over seeds; None with fewer than two seeds.
        high: of the same.
        within: interval within seeds; None where a seed has fewer than two samples.
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
        label: for people.
        metric: one of `evaluation.metrics.METRICS`, or "win": 1 where its reward is above the annotation's, ½ if equal.
        domains: of the sets; see `HeldOut`.
        tasks: of the sets; none: all.
        scale: what its numbers are multiplied with to be shown.
        digits: decimals to show.
        unit: after the number.
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
    """The mean over seeds of their numbers, with its intervals. Seeds without a number are left out."""
    resampling = resampling or Resampling()
    numbers: list[float] = []
    drawn_R = np.zeros(resampling.draws)
    sure = True
    for place, values in enumerate(seeds):
        known = [one[np.isfinite(one)] for one in values]
        if not known or any(not one.size for one in known):
            continue
        numbers.append(float(sum(one.mean() for one in known)))
        sure &= all(one.size > 1 for one in known)
        for part, one in enumerate(known):
            drawn_R += resampled_means(one[None], resampling, stream=1000 * place + part)[0]
    if not numbers:
        return Spread(value=None, low=None, high=None, within=None, seeds=())
    value = float(np.mean(numbers))
    reach = _reach(numbers, resampling.confidence)
    ends = np.quantile(drawn_R / len(numbers), [(1 - resampling.confidence) / 2, (1 + resampling.confidence) / 2])
    return Spread(
        value=value,
        low=None if reach is None else value - reach,
        high=None if reach is None else value + reach,
        within=(float(ends[0]), float(ends[1])) if sure else None,
        seeds=tuple(numbers),
    )


def _reach(numbers: Sequence[float], confidence: float) -> float | None:
    """Half the width of Student's interval; None of fewer than two numbers."""
    from scipy.special import stdtrit  # scipy.stats has the same, and takes seconds to import

    if len(numbers) < 2:
        return None
    error = float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return float(stdtrit(len(numbers) - 1, (1 + confidence) / 2)) * error


def of_model(results: PaperResults, role: Role, measure: Measure) -> list[np.ndarray]:
    """One number of each sample of the measure's sets, not-a-number where there is none; an array a seed."""
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
    """The mean of a model."""
    return spread([[one] for one in of_model(results, role, MEASURES[measure])])


def gain(results: PaperResults, role: Role, over: Role, measure: str) -> Spread:
    """The mean of a model less that of another, sample by sample."""
    pairs = zip(
        of_model(results, role, MEASURES[measure]), of_model(results, over, MEASURES[measure]), strict=True
    )  # fmt: skip
    return spread([[one - other] for one, other in pairs])


def tax(results: PaperResults, role: Role, measure: str) -> Spread:
    """The alignment tax ([PF], definition 1): by how much the text-only model is ahead, summed over the sets."""
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
    """The mean of the annotations themselves."""
    sets = [name for name, held_out in results.sets.items() if MEASURES[measure].takes(held_out)]
    return spread([[_numbers(seed, RAW, MEASURES[measure].metric, sets)] for seed in results.seeds])


REWRITING: dict[str, Measure] = {
    "reward_raw": Measure(label="reward of the annotation", metric="reward_raw", domains=()),
    "reward": Measure(label="reward of the rewritten text", metric="reward", domains=()),
    "unchanged": _share("left unchanged", "unchanged", ()),
    "clip": Measure(label="CLIPScore", metric="clip", domains=()),
}
"""What is measured of rewritten annotations."""

NUMBERS: dict[str, Callable[[Rewrite], float | None]] = {
    "reward_raw": lambda row: row.reward_raw,
    "reward": lambda row: row.reward,
    "unchanged": lambda row: float(row.unchanged),
    "clip": lambda row: row.clip,
}


def of_rewrites(
    results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()
) -> list[dict[str, float]]:
    """One number of each annotation that a generation rewrote, by key; a dictionary a seed.

    Args:
        results: of the repetition.
        generation: of the rewriter.
        number: one of `NUMBERS`.
        datasets: of the annotations; none: all.
    """
    found = []
    for seed in results.seeds:
        rows = [row for row in seed.rewrites.get(generation, ()) if not datasets or row.dataset in datasets]
        numbers = {row.key: NUMBERS[number](row) for row in rows}
        found.append({key: one for key, one in numbers.items() if one is not None and math.isfinite(one)})
    return found


def rewritten(results: PaperResults, generation: Generation, number: str, datasets: Collection[str] = ()) -> Spread:
    """The mean of a generation's rewrites."""
    seeds = of_rewrites(results, generation, number, datasets)
    return spread([[np.array(list(one.values()))] for one in seeds])


def between(
    results: PaperResults, one: tuple[Generation, str], other: tuple[Generation, str], datasets: Collection[str] = ()
) -> Spread:
    """The mean difference of two numbers (generation, name), over the annotations that have both."""
    pairs = zip(of_rewrites(results, *one, datasets), of_rewrites(results, *other, datasets), strict=True)
    return spread([[np.array([a[key] - b[key] for key in a if key in b])] for a, b in pairs])


def shown(value: float | None, measure: Measure, *, sign: bool = False, unit: bool = True) -> str:
    """A number of a measure as people read it, with a minus sign that is one; a dash for none."""
    if value is None:
        return "–"
    text = f"{measure.scale * value:{'+' if sign else ''}.{measure.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") + (measure.unit if unit else "")
