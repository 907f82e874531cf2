"""Draw the charts of the repeated paper: the effect of each claim, rewards before and after rewriting, the U."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from polite_flamingo.report.chart_types import QUANTILES, Box, Line, Point, boxes, lines
from polite_flamingo.report.svg import Frame, picture, words
from polite_flamingo.testbed.paper.claims import Finding
from polite_flamingo.testbed.paper.measures import MEASURES, Measure, of_rewrites, shown, sides
from polite_flamingo.testbed.paper.results import Generation, PaperResults, Role

STAGES: tuple[tuple[Role, str], ...] = (
    ("base", "base"), ("stage_1", "stage 1"), ("stage_2", "stage 2"), ("clever", "stage 3"),
)  # fmt: skip


def effect(finding: Finding) -> Markup:
    """Draw a claim's number with its interval, on a line with the margin within which effects count as none."""
    claim, found = finding.claim, finding.spread
    measure, against = claim.measure, claim.against
    ends = [end for end in (found.value, found.low, found.high) if end is not None]
    reach = 1.15 * max([2 * measure.margin, *(abs(end - against) for end in ends)])
    frame = Frame(width=260, height=46, across=(against - reach, against + reach), left=6, right=6, above=4, below=18)
    left, right = frame.x(against - measure.margin), frame.x(against + measure.margin)
    body = [f'<rect class="margin" x="{left:.1f}" y="4" width="{right - left:.1f}" height="24"/>']
    body += [frame.line("axis", frame.left, 28, frame.end, 28), frame.upright("zero", against)]
    body.append(words(frame.x(against), 42, shown(against, measure), anchor="middle"))
    end = against + 0.98 * reach if claim.sign > 0 else against - 0.98 * reach
    if claim.sign:
        side = "end" if claim.sign > 0 else "start"
        body.append(words(frame.x(end), 42, "claimed →" if claim.sign > 0 else "← claimed", anchor=side))
    kind = finding.verdict.replace(" ", "-")
    if found.low is not None and found.high is not None:
        a, b = frame.x(found.low), frame.x(found.high)
        body.append(f'<path class="interval is-{kind}" d="M{a:.1f} 11V21M{a:.1f} 16H{b:.1f}M{b:.1f} 11V21"/>')
    if found.value is not None:
        body.append(f'<circle class="effect is-{kind}" r="4.5" cx="{frame.x(found.value):.1f}" cy="16"/>')
    said = f"{shown(found.value, measure)}, interval from {shown(found.low, measure)} to {shown(found.high, measure)}"
    return picture(f"{claim.what}: {said}; {finding.verdict}", 260, 46, body)


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
    return measure.scale * (min(max(value, 0.0), 1.0) if measure.metric in ("right", "accuracy", "win") else value)
