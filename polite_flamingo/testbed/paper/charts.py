"""Draw the charts of the repeated paper: rewards before and after rewriting, the U."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from polite_flamingo.report.chart_types import QUANTILES, Box, Line, boxes, lines
from polite_flamingo.testbed.paper.measures import MEASURES, of_rewrites, sides
from polite_flamingo.testbed.paper.results import Generation, PaperResults, Role
from polite_flamingo.testbed.study.charts import point

STAGES: tuple[tuple[Role, str], ...] = (
    ("base", "base"), ("stage_1", "stage 1"), ("stage_2", "stage 2"), ("clever", "stage 3"),
)  # fmt: skip


def reward_boxes(results: PaperResults, *, width: float) -> Markup:
    """Draw rewards by dataset, all seeds together: of the annotations and of each generation's rewrites."""
    shown: list[tuple[str, Generation, str, str]] = [
        ("annotation", "first", "reward_raw", "quiet"),
        ("first generation", "first", "reward", "bright"),
        ("second generation", "second", "reward", ""),
        ("template", "template", "reward", "quiet"),
    ]
    datasets = dict.fromkeys(row.dataset for seed in results.seeds for rows in seed.rewrites.values() for row in rows)
    groups = []
    for dataset in datasets:
        members = []
        for name, generation, what, kind in shown:
            values = of_rewrites(results, generation, what, (dataset,))
            values = values[np.isfinite(values)]
            if values.size:
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
        for place, one in enumerate(sides(results, [role for role, _ in stages], key)):
            if one.value is not None:
                points.append(point(place, one, MEASURES[key]))
        series.append(Line(name=MEASURES[key].label, points=points))
    return lines(
        f"{y_label} along the stages", series, x_label="after", y_label=y_label, width=width,
        x_names=[name for _, name in stages],
    )  # fmt: skip
