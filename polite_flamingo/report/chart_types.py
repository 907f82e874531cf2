"""Two kinds of figures for any numbers: a heat map, and bars with error bars.

Colours come from `plots.css`. Everything a colour says is also written as a number or a name, and all kinds of eyes can
tell blue from orange. A page puts a figure into an element of class "plot" and lists "plots" among its styles
(`template.fill`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from polite_flamingo.formatting import trimmed
from polite_flamingo.report.svg import LETTER, Frame, fitted, picture, words


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


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell | None]]) -> Markup:
    """Draw a matrix with a number in every cell.

    Args:
        title: what it shows, for screen readers.
        rows: names on the left.
        columns: names on top.
        cells: by row; None leaves a field empty (a diagonal).
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


def bars(title: str, values: Sequence[Bar]) -> Markup:
    """Draw horizontal bars from zero, each with its name, its number and the whiskers of its interval.

    Args:
        title: what they show, for screen readers.
        values: from top to bottom.
    """
    ends = [end for bar in values for end in (bar.value, bar.low, bar.high) if end is not None]
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


def _wrapped(name: str, room: float) -> list[str]:
    """Return a name on one line, or on two where it must be, each cut to its room."""
    found = textwrap.wrap(name, max(3, int(room / LETTER)), break_long_words=False) or [""]
    return [fitted(line, room) for line in [found[0], " ".join(found[1:])] if line]
