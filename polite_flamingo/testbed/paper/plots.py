"""Figures of the repeated paper: boxes of quantiles, and lines with bands.

Colours come from `report/plots.css`. Lines differ by dashes as well, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from polite_flamingo.formatting import trimmed
from polite_flamingo.report.svg import LETTER, Frame, picture, ticks, words

DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")
COLOURS = 6
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles of a distribution that a `Box` shows."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """The middle of a distribution: `QUANTILES` of it. `kind` is "quiet" (grey), "bright" (pink) or "" (blue)."""

    name: str
    quantiles: Sequence[float]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line, with its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line and its name."""

    name: str
    points: Sequence[Point]


def boxes(title: str, groups: Sequence[tuple[str, Sequence[Box]]], *, x_label: str, width: float = 1060) -> Markup:
    """Draw boxes from the first to the third quartile, each with its median, and whiskers to the outer quantiles.

    Args:
        title: what they show, for screen readers.
        groups: name on the left -> its boxes from top to bottom.
        x_label: under the axis.
        width: of the picture in the page's pixels.
    """
    ends = [end for _, members in groups for box in members for end in (box.quantiles[0], box.quantiles[-1])]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    high = high if high > low else low + 1.0
    left, step, gap, top = min(150.0, 0.3 * width), 15.0, 12.0, 6.0
    height = top + sum(step * len(members) + gap for _, members in groups) + 40
    frame = Frame(width=width, height=height, across=(low, high), left=left, right=14, above=top)
    body = [frame.columns(4 if width < 500 else 9, x_label)]
    y, spoken = top, []
    for name, members in groups:
        body.append(words(left - 12, y + step * len(members) / 2 + 4, name, kind="name", anchor="end"))
        for place, box in enumerate(members):
            a, b, c, d, e = (frame.x(value) for value in box.quantiles)
            line, median = y + step * (place + 0.5), trimmed(box.quantiles[2])
            spoken.append(f"{name}, {box.name} {median}")
            body.append(
                f"<g><title>{escape(f'{name}, {box.name}: median {median}')}</title>"
                f'<path class="reach" d="M{a:.1f} {line:.1f}H{e:.1f}"/>'
                f'<rect class="bar {box.kind}" x="{b:.1f}" y="{line - 5.5:.1f}" width="{max(d - b, 1):.1f}" '
                f'height="11" rx="2"/><path class="median" d="M{c:.1f} {line - 5.5:.1f}V{line + 5.5:.1f}"/></g>'
            )
        y += step * len(members) + gap
    return picture(f"{title}; medians: {'; '.join(spoken)}", width, height, body)


def lines(
    title: str, series: Sequence[Line], *, x_label: str, y_label: str, width: float = 520, height: float = 290,
    x_names: Sequence[str] = (), y_text: Callable[[float], str] | None = None,
) -> Markup:  # fmt: skip
    """Draw lines with the bands of their intervals, and a legend under them.

    Args:
        title: what they show, for screen readers.
        series: at most as many as there are colours (`COLOURS`) are told apart.
        x_label: under the horizontal axis.
        y_label: over the vertical one.
        width: of the picture in the page's pixels.
        height: of the picture without its legend.
        x_names: where the x are 0, 1, 2 …: what to write under each instead of numbers.
        y_text: a value of the vertical axis as text.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return picture(f"{title}: nothing to show", width, 20, [])
    left_x, right_x = min(point.x for point in points), max(point.x for point in points)
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 0.5
    frame = Frame(
        width=width, height=height, across=(left_x, right_x if right_x > left_x else left_x + 1.0),
        up=(low - room, high + room), left=52, right=max(16.0, LETTER * len((x_names or ("",))[-1]) / 2), above=26,
        below=44,
    )  # fmt: skip
    y_text = y_text or trimmed
    marks = list(enumerate(x_names)) if x_names else [(tick, trimmed(tick)) for tick in ticks(*frame.across, 5)]
    y_ticks = [(tick, y_text(tick)) for tick in ticks(*frame.up, 4)]
    body = [frame.axes(x_label=x_label, y_label=y_label, x_ticks=marks, y_ticks=y_ticks)]

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)

    x, y = frame.left, height + 12
    for place, line in enumerate(series):
        colour, dashes = place % COLOURS, DASHES[place % len(DASHES)]
        above = [(point.x, point.high) for point in line.points if point.high is not None]
        under = [(point.x, point.low) for point in line.points if point.low is not None]
        if len(above) == len(under) > 1:
            body.append(f'<path class="band fill{colour}" d="{path([*above, *reversed(under)])}Z"/>')
        stroke = f'<path class="curve stroke{colour}" stroke-dasharray="{dashes}"'
        body.append(f'{stroke} d="{path([(point.x, point.y) for point in line.points])}"/>')
        dot = f'<circle class="dot fill{colour}" r="3.6"'
        body += [f'{dot} cx="{frame.x(point.x):.1f}" cy="{frame.y(point.y):.1f}"/>' for point in line.points]
        needed = 44 + LETTER * len(line.name)
        if x + needed > width and x > frame.left:
            x, y = frame.left, y + 20
        body.append(f'{stroke} d="M{x:.1f} {y - 4:.1f}h26"/>' + words(x + 32, y, line.name, kind="name"))
        x += needed
    spoken = f"{title}: " + "; ".join(f"{line.name} {', '.join(y_text(p.y) for p in line.points)}" for line in series)
    return picture(spoken, width, y + 8, body)
