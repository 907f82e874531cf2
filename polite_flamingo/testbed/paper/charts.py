"""The figures of the repeated paper: rewards before and after rewriting, the U of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from polite_flamingo.report.plots import Line, Point, lines, number, ticks
from polite_flamingo.testbed.paper.measures import MEASURES, Measure, level, of_rewrites
from polite_flamingo.testbed.paper.results import Generation, PaperResults, Role

STAGES: tuple[tuple[Role, str], ...] = (
    ("base", "base"), ("stage_1", "stage 1"), ("stage_2", "stage 2"), ("clever", "stage 3"),
)  # fmt: skip
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The middle of a distribution: `QUANTILES` of it. `kind` is "quiet" (grey), "bright" (pink) or "" (blue)."""

    name: str
    quantiles: Sequence[float]
    kind: str = ""


def boxes(title: str, groups: Sequence[tuple[str, Sequence[Box]]], *, x_label: str, width: float = 1060) -> Markup:
    """Boxes from the first to the third quartile, with a mark at the median and whiskers at the outer quantiles.

    Args:
        title: what they show, for screen readers.
        groups: name on the left -> its boxes from top to bottom.
        x_label: under the axis.
        width: of the picture in the page's pixels.
    """
    ends = [end for _, members in groups for box in members for end in (box.quantiles[0], box.quantiles[-1])]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    high = high if high > low else low + 1.0
    left, right, step, gap, top = min(150.0, 0.3 * width), 14.0, 15.0, 12.0, 6.0

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    floor = top + sum(step * len(members) + gap for _, members in groups)
    body = []
    for tick in ticks(low, high, 4 if width < 500 else 9):
        body.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{floor}"/>')
        body.append(f'<text x="{at(tick):.1f}" y="{floor + 15}" text-anchor="middle">{number(tick)}</text>')
    body.append(f'<text x="{(left + width - right) / 2:.1f}" y="{floor + 34}" text-anchor="middle">')
    body.append(f"{escape(x_label)}</text>")
    y, spoken = top, []
    for name, members in groups:
        middle = y + step * len(members) / 2
        body.append(f'<text class="name" x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for place, box in enumerate(members):
            a, b, c, d, e = (at(value) for value in box.quantiles)
            line = y + step * (place + 0.5)
            body.append(f"<g><title>{escape(f'{name}, {box.name}: median {number(box.quantiles[2])}')}</title>")
            body.append(f'<path class="reach" d="M{a:.1f} {line:.1f}H{e:.1f}"/>')
            body.append(
                f'<rect class="bar {box.kind}" x="{b:.1f}" y="{line - 5.5:.1f}" width="{max(d - b, 1):.1f}" '
                f'height="11" rx="2"/><path class="median" d="M{c:.1f} {line - 5.5:.1f}V{line + 5.5:.1f}"/></g>'
            )
            spoken.append(f"{name}, {box.name} {number(box.quantiles[2])}")
        y += step * len(members) + gap
    label = escape(f"{title}; medians: {'; '.join(spoken)}")
    return Markup(  # every text in `body` is a number or escaped
        f'<svg viewBox="0 0 {width:g} {floor + 40:g}" role="img" aria-label="{label}" '
        f'style="max-width: {width:g}px">{"".join(body)}</svg>'
    )


def reward_boxes(results: PaperResults, *, width: float) -> Markup:
    """Rewards by data set, all seeds together: of the annotations, and of what each generation made of them."""
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
    """Measures of one unit along the stages, with the band of the interval over seeds."""
    stages = [(role, name) for role, name in STAGES if role in results.roles]
    series = []
    for key in measures:
        points = []
        for place, (role, _) in enumerate(stages):
            one = level(results, role, key)
            if one.value is not None:
                ends = [_drawn(end, MEASURES[key]) for end in (one.value, one.low, one.high)]
                points.append(Point(x=place, y=ends[0] or 0.0, low=ends[1], high=ends[2]))
        series.append(Line(name=MEASURES[key].label, points=points))
    return lines(
        f"{y_label} along the stages", series, x_label="after", y_label=y_label, width=width,
        x_names=[name for _, name in stages],
    )  # fmt: skip


def _drawn(value: float | None, measure: Measure) -> float | None:
    """As it is drawn: a share between none and all, which an interval over few seeds does not know of."""
    if value is None:
        return None
    return measure.scale * (min(max(value, 0.0), 1.0) if measure.metric in ("accuracy", "win") else value)
