"""Parts of a chart as SVG: words, axes with round ticks, and the picture around them.

A chart has no script and no font of its own. Its colours come from the page's style sheet by class, so dark mode and
print change them too. Words are escaped here; all else in a chart is numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from polite_flamingo.formatting import trimmed

LETTER = 7.4
"""Pixels of an average letter at 12 px in a wide font (DejaVu Sans): names are cut to the room they have."""

Tick = tuple[float, str]
"""A value of an axis, and the words beside it."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a plot lies in its picture, in pixels of the page, and the ranges of its axes.

    Attributes:
        width: width of the picture.
        height: height of the picture.
        across: lowest and highest value of the horizontal axis.
        up: lowest and highest value of the vertical axis.
        left: left margin; `right`, `above` and `below` are the other margins.
    """

    width: float
    height: float
    across: tuple[float, float]
    up: tuple[float, float] = (0.0, 1.0)
    left: float = 44.0
    right: float = 12.0
    above: float = 22.0
    below: float = 40.0

    def x(self, value: float) -> float:
        """Return the horizontal place of a value; a value out of range is placed at the edge."""
        low, high = self.across
        return self.left + (min(max(value, low), high) - low) / (high - low) * (self.end - self.left)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        low, high = self.up
        return self.floor - (value - low) / (high - low) * (self.floor - self.above)

    @property
    def floor(self) -> float:
        """The vertical place of the horizontal axis."""
        return self.height - self.below

    @property
    def end(self) -> float:
        """The right end of the horizontal axis."""
        return self.width - self.right

    def axes(self, *, x_label: str, y_label: str, x_ticks: Iterable[Tick], y_ticks: Iterable[Tick]) -> str:
        """Draw a grid line for each tick of the vertical axis, and the horizontal axis."""
        parts = [words(2, 12, y_label)]
        for value, name in y_ticks:
            y = self.y(value)
            parts += [self.line("grid", self.left, y, self.end, y), words(self.left - 7, y + 4, name, anchor="end")]
        parts.append(self.line("axis", self.left, self.floor, self.end, self.floor))  # over the grid line of 0
        for value, name in x_ticks:
            x = self.x(value)
            parts += [self.line("axis", x, self.floor, x, self.floor + 4)]
            parts += [words(x, self.floor + 17, name, anchor="middle")]
        return "".join([*parts, self._x_label(x_label)])

    def columns(self, about: int, x_label: str = "") -> str:
        """Draw vertical grid lines with their numbers at about `about` round values, for horizontal bars."""
        parts = []
        for value in ticks(*self.across, about):
            parts.append(self.upright("grid", value))
            parts.append(words(self.x(value), self.floor + 15, trimmed(value), anchor="middle"))
        return "".join([*parts, self._x_label(x_label) if x_label else ""])

    def upright(self, kind: str, value: float, above: float | None = None) -> str:
        """Draw a vertical line at a value of the horizontal axis, up to the top of the plot or to `above`."""
        x = self.x(value)
        return self.line(kind, x, self.above if above is None else above, x, self.floor)

    @staticmethod
    def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
        """Draw a straight line with a class of the style sheet."""
        return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'

    def _x_label(self, label: str) -> str:
        return words((self.left + self.end) / 2, self.height - 7, label, anchor="middle")


def words(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    """Write a line of text, escaped."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def points(places: Sequence[tuple[float, float]]) -> str:
    """Return the `points` of a polygon or a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def picture(title: str, width: float, height: float, body: Iterable[str], *, fills: bool = False) -> Markup:
    """Put a picture together.

    Args:
        title: what it shows, for screen readers.
        width: width in pixels of the page.
        height: height in pixels of the page.
        body: what the functions of this module return, and numbers.
        fills: whether it fills its place on the page; otherwise it is never wider than `width`.
    """
    style = "" if fills else f' style="max-width: {width:g}px"'
    return Markup(  # every text in `body` is a number or escaped
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"{style}>{"".join(body)}</svg>'
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return about `about` round values between `low` and `high`."""
    rough = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def fitted(name: str, room: float) -> str:
    """Return a name, cut to fit its room in pixels."""
    letters = max(3, int(room / LETTER))
    return name if len(name) <= letters else name[: letters - 1] + "…"
