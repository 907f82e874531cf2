"""The metrics of each task, and how they are shown.

[PF] section 5: Rouge-L for captions, the share of NLI entailments for VQA, STS and Rouge-L for tasks of several images,
the reward of every answer. The metrics of classification and text are ours: a class is compared like a change, a text
by Rouge-L and entailment. `judging.py` computes the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from polite_flamingo.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric; higher is better.

    Attributes:
        label: its name in tables and charts.
        share: whether it is a share in [0, 1], shown as a percentage.
        digits: decimals to show.
    """

    label: str
    share: bool = False
    digits: int = 3


METRICS = {
    "reward": Metric(label="Reward", digits=2),
    "accuracy": Metric(label="Accuracy (NLI entailment)", share=True, digits=1),
    "rouge_l": Metric(label="Rouge-L"),
    "sts": Metric(label="STS"),
}

TASK_METRICS: dict[str, tuple[str, ...]] = {
    "captioning": ("reward", "rouge_l"),
    "classification": ("reward", "sts", "rouge_l"),
    "change_captioning": ("reward", "sts", "rouge_l"),
    "vqa_rationale": ("reward", "accuracy"),
    "vqa": ("reward", "accuracy"),
    "text": ("reward", "accuracy", "rouge_l"),
    "dialogue": ("reward", "accuracy", "rouge_l"),
}
SEVERAL_IMAGES = ("sts", "rouge_l")
"""Added for samples with more than one image, as [PF] does for NLVR2."""


def metrics_of(sample: Sample) -> tuple[str, ...]:
    """Return the metrics that apply to a sample, in the order of `METRICS`."""
    wanted = {*TASK_METRICS[sample.task], *(SEVERAL_IMAGES if len(sample.images) > 1 else ())}
    return tuple(name for name in METRICS if name in wanted)


def shown(metric: str, value: float | None, *, sign: bool = False) -> str:
    """Format a value of a metric, with a typographic minus; a dash for None."""
    if value is None:
        return "–"
    about = METRICS[metric]
    text = f"{100 * value if about.share else value:{'+' if sign else ''}.{about.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−") + (" %" if about.share else "")
