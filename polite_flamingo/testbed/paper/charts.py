"""Draw the charts of the repeated paper: rewards before and after rewriting, and the U of the stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from polite_flamingo.report.chart_types import QUANTILES, Box, Line, Point, boxes, lines
from polite_flamingo.testbed.paper.measures import MEASURES, Measure, level, of_rewrites
from polite_flamingo.testbed.paper.results import Generation, PaperResults, Role

STAGES: tuple[tuple[Role, str], ...] = (
    ("base", "base"), ("stage_1", "stage 1"), ("stage_2", "stage 2"), ("clever", "stage 3"),
)  # fmt: skip


def reward_boxes(results: PaperResults, *, width: float) -> Markup:
    """Draw rewards by dataset, all seeds together: of the annotations and of each generation's rewrites."""
    shown: list[tuple[str, Generation, str, str]] = [
        ("annotation", "first", "reward_raw", "quiet"),
        ("first generation", "first", "reward", "bright"),
        ("second generation", "second", "reward", ""),
    ]
    datasets = dict.fromkeys(row.dataset for seed in results.seeds for rows in seed.rewrites.values() for row in rows)
    groups = []
    for dataset in datasets:
        members = []
        for name, generation, what, kind in shown:
            seeds = of_rewrites(results, generation, what, (dataset,))
            values = [value for one in seeds for value in one.values()]
            if values:
                members.append(Box(name=name, quantiles=np.quantile(values, QUANTILES).tolist(), kind=kind))
        if members:
            groups.append((dataset, members))
    return boxes("Reward before and after rewriting", groups, x_label="reward (logit)", width=width)


def stage_lines(results: PaperResults, measures: Sequence[str], *, y_label: str, width: float) -> Markup:
    """Draw measures of one unit along the stages, with bands for the interval over seeds."""
    stages = [(role, name) for role, name in STAGES if role in results.roles]
    series = []
    for key in measures:
        points = []
        for place, (role, _) in enumerate(stages):
            one = level(results, role, key)
            if one.value is not None:
                ends = [_plotted(end, MEASURES[key]) for end in (one.value, one.low, one.high)]
                points.append(Point(x=place, y=ends[0] or 0.0, low=ends[1], high=ends[2]))
        series.append(Line(name=MEASURES[key].label, points=points))
    return lines(
        f"{y_label} along the stages", series, x_label="after", y_label=y_label, width=width,
        x_names=[name for _, name in stages],
    )  # fmt: skip


def _plotted(value: float | None, measure: Measure) -> float | None:
    """Return a value to plot: shares are cut to 0 and 1, which an interval over few seeds may exceed."""
    if value is None:
        return None
    return measure.scale * (min(max(value, 0.0), 1.0) if measure.metric in ("accuracy", "win") else value)
