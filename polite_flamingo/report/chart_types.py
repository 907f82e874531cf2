"""Charts of any numbers as SVG: heat maps, bars with error bars, boxes of quantiles, lines with bands.

Colours come from `chart_types.css` and never stand alone: cells and bars also show their number, lines differ by their
dashes. A page puts a chart into an element of class "plot" and lists "chart_types" among its styles (`template.fill`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from polite_flamingo.formatting import trimmed
from polite_flamingo.report.svg import LETTER, Frame, fitted, picture, ticks, words

DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")
COLOURS = 6
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles of a distribution that a `Box` shows."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a heat map.

    Attributes:
        text: its number.
        small: small text under it, such as an interval.
        shade: colour from -1 (orange) through 0 (plain) to 1 (blue).
        title: what it says in a sentence, shown as a tooltip.
    """

    text: str
    small: str = ""
    shade: float = 0.0
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its interval. `kind` is "quiet" (grey), "bright" (pink) or "" (blue)."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Box:
    """`QUANTILES` of a distribution. `kind` is "quiet" (grey), "bright" (pink) or "" (blue)."""

    name: str
    quantiles: Sequence[float]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line and its name."""

    name: str
    points: Sequence[Point]


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]]) -> Markup:
    """Draw a matrix with a number in every cell.

    Args:
        title: what it shows, for screen readers.
        rows: names on the left.
        columns: names on top.
        cells: cells by row; None leaves one empty (as on a diagonal).
    """
    left = min(180.0, 24 + LETTER * max(map(len, (*rows, "")), default=0))
    cell = min(150.0, (1056 - left) / max(1, len(columns)))  # the picture is at most 1060 wide
    headings = [_wrapped(name, cell - 6) for name in columns]
    height, top = 46.0, 22.0 + 14 * max(map(len, headings), default=1)
    body = []
    for place, heading in enumerate(headings):
        for line, part in enumerate(reversed(heading)):
            x, y = left + (place + 0.5) * cell, top - 8 - 14 * line
            body.append(words(x, y, part, kind="name", anchor="middle"))
    for row, (name, fields) in enumerate(zip(rows, cells, strict=True)):
        y = top + row * height
        body.append(words(left - 10, y + height / 2 + 4, fitted(name, left - 12), kind="name", anchor="end"))
        for column, field in enumerate(fields):
            if field is None:
                continue
            x, shade = left + column * cell, max(-1.0, min(1.0, field.shade))
            colour = f"color-mix(in srgb, var(--{'high' if shade > 0 else 'low'}) {abs(shade):.0%}, var(--faint))"
            middle = x + cell / 2
            body.append(f"<g><title>{escape(field.title)}</title>" if field.title else "<g>")
            body.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{height - 2:.1f}" rx="4" '
                f'style="fill: {colour}"/>'
            )
            body.append(words(middle, y + (21 if field.small else 26), field.text, kind="cell", anchor="middle"))
            body.append(words(middle, y + 36, field.small, kind="small", anchor="middle") if field.small else "")
            body.append("</g>")
    return picture(title, left + cell * len(columns) + 4, top + height * len(rows) + 4, body)


def bars(title: str, values: Sequence[Bar], *, shows: tuple[float, float] = (0.0, 0.0)) -> Markup:
    """Draw horizontal bars from zero, each with its name, its number and the whiskers of its interval.

    Args:
        title: what they show, for screen readers.
        values: from top to bottom.
        shows: values that the axis reaches at least, so that small differences look small.
    """
    ends = [*shows, *(end for bar in values for end in (bar.value, bar.low, bar.high) if end is not None)]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    high = high if high > low else low + 1.0
    width = 520.0
    left = min(0.36 * width, 16 + LETTER * max((len(bar.name) for bar in values), default=0))
    right = 18 + 1.15 * LETTER * max((len(bar.text) for bar in values), default=0)
    step, thick, top = 26.0, 14.0, 4.0
    height = top + step * len(values) + 20
    frame = Frame(width=width, height=height, across=(low, high), left=left, right=right, above=top, below=20)
    body = [frame.columns(4)]
    for place, bar in enumerate(values):
        y = top + place * step + step / 2
        start, end = sorted((frame.x(0.0), frame.x(bar.value)))
        body.append(words(left - 8, y + 4, fitted(bar.name, left - 8), kind="name", anchor="end"))
        body.append(
            f'<rect class="bar {bar.kind}" x="{start:.1f}" y="{y - thick / 2:.1f}" width="{max(end - start, 0.5):.1f}" '
            f'height="{thick}" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None:
            a, b = frame.x(bar.low), frame.x(bar.high)
            body.append(
                f'<path class="whisker" d="M{a:.1f} {y - 4:.1f}V{y + 4:.1f}M{a:.1f} {y:.1f}H{b:.1f}'
                f'M{b:.1f} {y - 4:.1f}V{y + 4:.1f}"/>'
            )
        body.append(words(width - right + 10, y + 4, bar.text, kind="value"))
    if low < 0:
        body.append(frame.upright("zero", 0))
    spoken = f"{title}: " + ", ".join(f"{bar.name} {bar.text or trimmed(bar.value)}" for bar in values)
    return picture(spoken, width, height, body)


def boxes(title: str, groups: Sequence[tuple[str, Sequence[Box]]], *, x_label: str, width: float = 1060) -> Markup:
    """Draw boxes from the first to the third quartile, each with its median, and whiskers to the outer quantiles.

    Args:
        title: what they show, for screen readers.
        groups: name on the left -> its boxes from top to bottom.
        x_label: text under the axis.
        width: width of the picture in pixels of the page.
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
        series: the lines; `COLOURS` of them have different colours.
        x_label: text under the horizontal axis.
        y_label: text over the vertical axis.
        width: width of the picture in pixels of the page.
        height: height of the picture without its legend.
        x_names: what to write under x = 0, 1, 2 … instead of numbers.
        y_text: formats a value of the vertical axis.
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


def _wrapped(name: str, room: float) -> list[str]:
    """Return a name on one line, or on two if it is long, each cut to fit."""
    found = textwrap.wrap(name, max(3, int(room / LETTER)), break_long_words=False) or [""]
    return [fitted(line, room) for line in [found[0], " ".join(found[1:])] if line]
