"""Three kinds of figures as SVG text, for any numbers: a matrix as a heat map, bars with error bars, lines with bands.

No script and no font of their own; colours come from `plots.css` by class, so that dark mode and print reach them. What
a colour says is also said in numbers or names. Blue and orange are told apart by every kind of eye; lines differ by
dashes as well. A page puts a figure into an element of class "plot" and lists "plots" among its styles
(`template.fill`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LETTER = 6.7
"""Pixels of an average letter at 12 px: names are cut to the room they have."""
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")
COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a heat map.

    Attributes:
        text: its number.
        small: under it, such as an interval.
        shade: from -1 (orange) through 0 (plain) to 1 (blue).
        title: what it says in a sentence; shown by the mouse.
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


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]], *, side: str = "",
    width: float = 1060,
) -> Markup:  # fmt: skip
    """A matrix with a number in every cell.

    Args:
        title: what it shows, for screen readers.
        rows: names on the left.
        columns: names on top.
        cells: by row; None leaves a field empty (a diagonal).
        side: what rows and columns are, in the corner.
        width: of the picture in the page's pixels.
    """
    left = min(180.0, 24 + LETTER * max(map(len, (*rows, "")), default=0))
    cell = min(150.0, (width - left - 4) / max(1, len(columns)))
    headings = [_wrapped(name, cell - 6) for name in columns]
    height, top = 46.0, 22.0 + 14 * max(map(len, headings), default=1)
    body = [_words(0, 14, side)]
    for place, heading in enumerate(headings):
        for line, words in enumerate(reversed(heading)):
            x, y = left + (place + 0.5) * cell, top - 8 - 14 * line
            body.append(_words(x, y, words, kind="name", anchor="middle"))
    for row, (name, fields) in enumerate(zip(rows, cells, strict=True)):
        y = top + row * height
        body.append(_words(left - 10, y + height / 2 + 4, _fitted(name, left - 12), kind="name", anchor="end"))
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
            body.append(_words(middle, y + (21 if field.small else 26), field.text, kind="cell", anchor="middle"))
            body.append(_words(middle, y + 36, field.small, kind="small", anchor="middle") if field.small else "")
            body.append("</g>")
    return _svg(title, left + cell * len(columns) + 4, top + height * len(rows) + 4, body)


def bars(
    title: str, values: Sequence[Bar], *, width: float = 520, low: float = 0.0, high: float | None = None
) -> Markup:
    """Horizontal bars from zero, each with its name, its number and the whiskers of its interval.

    Args:
        title: what they show, for screen readers.
        values: from top to bottom.
        width: of the picture in the page's pixels.
        low: of the axis; lower values move it.
        high: of the axis; None takes the greatest end.
    """
    ends = [end for bar in values for end in (bar.value, bar.low, bar.high) if end is not None]
    low = min([low, *ends, 0.0])
    high = max([high if high is not None else -math.inf, *ends, 0.0])
    high = high if high > low else low + 1.0
    left = min(0.36 * width, 16 + LETTER * max((len(bar.name) for bar in values), default=0))
    right = 18 + 1.15 * LETTER * max((len(bar.text) for bar in values), default=0)
    step, thick, top = 26.0, 14.0, 4.0

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    floor = top + step * len(values)
    body = []
    for tick in ticks(low, high, 4):
        body.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{floor}"/>')
        body.append(_words(at(tick), floor + 15, number(tick), anchor="middle"))
    for place, bar in enumerate(values):
        y = top + place * step + step / 2
        start, end = sorted((at(0.0), at(bar.value)))
        body.append(_words(left - 8, y + 4, _fitted(bar.name, left - 8), kind="name", anchor="end"))
        body.append(
            f'<rect class="bar {bar.kind}" x="{start:.1f}" y="{y - thick / 2:.1f}" width="{max(end - start, 0.5):.1f}" '
            f'height="{thick}" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None:
            a, b = at(bar.low), at(bar.high)
            body.append(
                f'<path class="whisker" d="M{a:.1f} {y - 4:.1f}V{y + 4:.1f}M{a:.1f} {y:.1f}H{b:.1f}'
                f'M{b:.1f} {y - 4:.1f}V{y + 4:.1f}"/>'
            )
        body.append(_words(width - right + 10, y + 4, bar.text, kind="value"))
    if low < 0:
        body.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{floor}"/>')
    spoken = f"{title}: " + ", ".join(f"{bar.name} {bar.text or number(bar.value)}" for bar in values)
    return _svg(spoken, width, floor + 20, body)


def lines(
    title: str, series: Sequence[Line], *, x_label: str, y_label: str, width: float = 520, height: float = 290,
    x_names: Sequence[str] = (), y_text: Callable[[float], str] | None = None,
) -> Markup:  # fmt: skip
    """Lines with the bands of their intervals, and a legend under them.

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
        return _svg(f"{title}: nothing to show", width, 20, [])
    left_x, right_x = min(point.x for point in points), max(point.x for point in points)
    right_x = right_x if right_x > left_x else left_x + 1.0
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 0.5
    low, high = low - room, high + room
    left, right, top, below = 52.0, max(16.0, LETTER * len((x_names or ("",))[-1]) / 2), 26.0, 44.0
    y_text = y_text or number

    def across(x: float) -> float:
        return left + (x - left_x) / (right_x - left_x) * (width - left - right)

    def up(y: float) -> float:
        return top + (high - y) / (high - low) * (height - top - below)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)

    floor = height - below
    body = [_words(2, 12, y_label)]
    for tick in ticks(low, high, 4):
        body.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        body.append(_words(left - 7, up(tick) + 4, y_text(tick), anchor="end"))
    marks = list(enumerate(x_names)) if x_names else [(tick, number(tick)) for tick in ticks(left_x, right_x, 5)]
    for mark, name in marks:
        x = across(mark)
        body.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        body.append(_words(x, floor + 17, name, anchor="middle"))
    body.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{floor}" y2="{floor}"/>')
    body.append(_words((left + width - right) / 2, height - 8, x_label, anchor="middle"))
    x, y = left, height + 12
    for place, line in enumerate(series):
        colour, dashes = place % COLOURS, DASHES[place % len(DASHES)]
        above = [(point.x, point.high) for point in line.points if point.high is not None]
        under = [(point.x, point.low) for point in line.points if point.low is not None]
        if len(above) == len(under) > 1:
            body.append(f'<path class="band fill{colour}" d="{path([*above, *reversed(under)])}Z"/>')
        stroke = f'<path class="curve stroke{colour}" stroke-dasharray="{dashes}"'
        body.append(f'{stroke} d="{path([(point.x, point.y) for point in line.points])}"/>')
        dot = f'<circle class="dot fill{colour}" r="3.6"'
        body += [f'{dot} cx="{across(point.x):.1f}" cy="{up(point.y):.1f}"/>' for point in line.points]
        needed = 44 + LETTER * len(line.name)
        if x + needed > width and x > left:
            x, y = left, y + 20
        body.append(f'{stroke} d="M{x:.1f} {y - 4:.1f}h26"/>' + _words(x + 32, y, line.name, kind="name"))
        x += needed
    spoken = f"{title}: " + "; ".join(f"{line.name} {', '.join(y_text(p.y) for p in line.points)}" for line in series)
    return _svg(spoken, width, y + 8, body)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between the two."""
    rough = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def number(value: float) -> str:
    """As few decimals as the value needs, at most three."""
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def _words(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> str:
    """A line of text; `words` are escaped here."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _wrapped(name: str, room: float) -> list[str]:
    """A name on one line, or on two where it must be, each cut to its room."""
    found = textwrap.wrap(name, max(3, int(room / LETTER)), break_long_words=False) or [""]
    return [_fitted(line, room) for line in [found[0], " ".join(found[1:])] if line]


def _fitted(name: str, room: float) -> str:
    """A name, cut to its room."""
    most = max(3, int(room / LETTER))
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(title: str, width: float, height: float, body: Sequence[str]) -> Markup:
    return Markup(  # every text in `body` is a number or escaped
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="max-width: {width:g}px">{"".join(body)}</svg>'
    )
