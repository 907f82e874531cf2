"""Make the page that compares two builds: funnels side by side, win rates, costs, and samples on which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.comparison.outcomes import Comparison, Difference, Judged
from polite_flamingo.cost import Cost
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling
from polite_flamingo.report.gallery import Thumbnail, thumbnail, turns_before
from polite_flamingo.report.selection import REASON_NAMES, TASK_NAMES
from polite_flamingo.report.template import fill
from polite_flamingo.selection.statistics import DatasetCounts, rejections
from polite_flamingo.storage.run_info import RunInfo

KINDS: dict[Difference, str] = {
    "only_first": "Only the first build keeps these",
    "only_second": "Only the second build keeps these",
    "first_preferred": "Both keep these; the first has the higher reward",
    "second_preferred": "Both keep these; the second has the higher reward",
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two builds.

    Attributes:
        name: its output folder.
        counts: of its selection.
        run: how it was made.
        cost: what its models consumed.
        thresholds: of its selection, by name.
    """

    name: str
    counts: DatasetCounts
    run: RunInfo
    cost: Cost
    thresholds: Mapping[str, Any]


def page(first: Side, second: Side, comparison: Comparison, resampling: Resampling) -> str:
    """Return the page as HTML."""
    tasks = sorted({*comparison.tasks})
    return fill(
        "comparison",
        styles=("selection",),
        sides=(first, second),
        funnel=funnel(first.counts, second.counts),
        outcomes=comparison.outcomes,
        total=comparison.outcomes.total(),
        both=len(comparison.tasks),
        win_rate=comparison.win_rate(resampling),
        by_task=[(TASK_NAMES.get(task, task), comparison.win_rate(resampling, task)) for task in tasks],
        means=comparison.means(resampling),
        confidence=f"{resampling.confidence:.0%}",
        groups=[
            (title, [(one, _pictures(one.first)) for one in comparison.shown[kind]])
            for kind, title in KINDS.items()
            if comparison.shown.get(kind)
        ],
        thresholds=[
            (name, first.thresholds.get(name), second.thresholds.get(name))
            for name in sorted({*first.thresholds, *second.thresholds})
            if first.thresholds.get(name) != second.thresholds.get(name)
        ],
        before=turns_before,
        reason_names=REASON_NAMES,
        text=interval,
    )


def funnel(first: DatasetCounts, second: DatasetCounts) -> list[tuple[str, Sequence[int]]]:
    """Return the lines of both funnels: what became of how many rows."""
    reasons = dict.fromkeys(
        [*(reason for reason, _ in rejections(first)), *(reason for reason, _ in rejections(second))]
    )
    sides = (first, second)
    lines = [("rows in", [side.rows for side in sides])]
    if any(side.quarantined.total() for side in sides):
        lines.append(("quarantined", [side.quarantined.total() for side in sides]))
    lines += [(REASON_NAMES[reason], [side.rejected[reason] for side in sides]) for reason in reasons]
    return [*lines, ("kept", [side.kept for side in sides])]


def interval(one: Estimate, *, share: bool = False) -> str:
    """Return an estimate with its interval, such as 61.2 % (57.0 to 65.3)."""
    if one.value is None:
        return "–"
    factor, unit, digits = (100, " %", 1) if share else (1, "", 2)

    def shown(value: float) -> str:
        return f"{value * factor:z.{digits}f}".replace("-", "−")

    between = "" if one.low is None or one.high is None else f" ({shown(one.low)} to {shown(one.high)})"
    return shown(one.value) + unit + between


def _pictures(judged: Judged) -> Any:
    pictures: list[Thumbnail] = [thumbnail(image.data) for image in judged.sample.images[:2]]
    return pictures
