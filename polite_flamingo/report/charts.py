"""Charts as SVG text: no script, no font of their own, colours by class so that the page's dark mode reaches them.

Every chart has labelled axes, a title for screen readers, and its text at the size of the page's when drawn at its own
width: a narrow and a wide one are drawn where a page has room for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from polite_flamingo.filters.thresholds import Check
from polite_flamingo.selection.statistics import Curve, Histogram, Statistics

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A plot's place in its picture, and the ranges of its axes."""

    width: float
    height: float
    low: float
    high: float
    top: float
    left: float = 44.0
    right: float = 12.0
    above: float = 22.0
    below: float = 40.0

    def x(self, value: float) -> float:
        """Where a value lies from left to right; beyond the range, at its edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        """Where a share of `top` lies from the bottom up."""
        return self.height - self.below - share / self.top * (self.height - self.above - self.below)

    @property
    def floor(self) -> float:
        """The horizontal axis."""
        return self.height - self.below


def reward_chart(statistics: Statistics, *, width: float) -> Markup:
    """Reward of the annotations, of all rewritten texts, and of the kept ones among these, as shares."""
    raw, rewritten, kept = statistics.reward_raw, statistics.reward, statistics.reward_kept
    total = statistics.total()
    means = {"raw": total.reward_raw.value, "kept": total.reward_kept.value}
    found = [histogram for histogram in (raw, rewritten, kept) if histogram.total]
    if not found:
        return Markup("")
    low = min(_quantile(histogram, 0.002) for histogram in found)
    high = max(_quantile(histogram, 0.998) for histogram in found) + raw.step
    step = _bin_width(low, high, 36)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    shares = [_shares(histogram, low, high, step) for histogram in (raw, rewritten, kept)]
    top = _round_up(max(share for line in shares for share in line) or 1.0)
    frame = Frame(width=width, height=290, low=low, high=high, top=top, above=54)
    body = _axes(frame, x_label="reward (logit)", y_label="share of samples", y_ticks=[0, top / 2, top])
    for name, line in zip(("raw", "all", "kept"), shares, strict=True):
        body += _steps(frame, line, low, step, f"area {name}")
    known = {name: mean for name, mean in means.items() if mean is not None}
    for row, (name, mean) in enumerate(known.items()):
        x = frame.x(mean)
        y = frame.above - 24 + 15 * row  # a row each: the two means may be the same
        anchor, shift = ("end", -5) if x > frame.width * 0.6 else ("start", 5)
        body += f'<line class="mean {name}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{frame.floor}"/>'
        label = f"{'annotations' if name == 'raw' else 'kept'} {_text(mean)}"
        body += f'<text class="tag {name}" x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">{label}</text>'
    title = "Reward, mean of " + " and ".join(f"{name}: {_text(mean)}" for name, mean in known.items())
    return _svg(frame, title, body)


def what_if_chart(check: Check, curve: Curve, value: float | None, *, width: float) -> Markup:
    """Share of the judged samples that would be kept, as this one threshold moves and all others stay.

    Of a check that is not asked (None) the dot shows what it would keep where it is offered.
    """
    judged = curve.scores.total
    threshold = check.offered if value is None else value
    if not judged or threshold is None:
        return Markup("")
    low, high = _quantile(curve.scores, 0.01), _quantile(curve.scores, 0.98) + check.step
    if low - (high - low) < threshold < high + (high - low):  # near enough to be drawn in its place
        low, high = min(low, threshold - 2 * check.step), max(high, threshold + 2 * check.step)
    step = check.step * max(1, math.ceil((high - low) / check.step / 60))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    frame = Frame(width=width, height=216, low=low, high=high, top=1.0, left=42, above=40)
    body = _axes(frame, x_label=check.label, y_label="share kept", y_ticks=[0, 0.5, 1])
    shares = _shares(curve.scores, low, high, step)
    peak = max(shares) or 1.0
    body += _steps(frame, [0.45 * share / peak for share in shares], low, step, "area judged")
    values = [low + i * step for i in range(round((high - low) / step) + 1)]
    line = [(frame.x(v), frame.y(curve.deciding.satisfying(check.sense, v) / judged)) for v in values]
    body += f'<polyline class="curve" points="{_points(line)}"/>'
    now = curve.kept / judged
    kept = now if value is not None else curve.deciding.satisfying(check.sense, threshold) / judged
    x, y = frame.x(threshold), frame.y(kept)
    arrow = " →" if threshold > high else " ←" if threshold < low else ""
    body += f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.above - 17}" y2="{frame.floor}"/>'
    kind = "offered" if value is None else "now"
    body += f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    anchor, shift = ("start", 5) if x < frame.width * 0.6 else ("end", -5)
    body += f'<text class="tag now" x="{x + shift:.1f}" y="{frame.above - 7}" text-anchor="{anchor}">'
    body += f"{kept:.0%} at {_text(threshold)}{arrow}{f', now {now:.0%}' if value is None else ''}</text>"
    title = f"{check.label}, {check.rule(threshold)}: {kept:.1%} of {judged:,} judged samples are kept"
    if value is None:
        title = f"{title.removesuffix('are kept')}would be kept; it is not asked: {now:.1%} are"
    return _svg(frame, title, body)


def _svg(frame: Frame, title: str, body: str) -> Markup:
    return Markup(  # every text in `body` is a number or escaped
        f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _axes(frame: Frame, *, x_label: str, y_label: str, y_ticks: Sequence[float]) -> str:
    parts = []
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        digits = 0 if frame.top >= 0.1 else 1
        parts.append(
            f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.{digits}%}</text>'
        )
    for tick in _ticks(frame.low, frame.high, 4 if frame.width < 500 else 9):
        x = frame.x(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.floor}" y2="{frame.floor + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{frame.floor + 17}" text-anchor="middle">{_text(tick)}</text>')
    parts.append(
        f'<line class="axis" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{frame.floor}" y2="{frame.floor}"/>'
    )
    middle = (frame.left + frame.width - frame.right) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{frame.height - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="label" x="2" y="11">{escape(y_label)}</text>')
    return "".join(parts)


def _steps(frame: Frame, shares: Sequence[float], low: float, step: float, name: str) -> str:
    """A histogram as one outline, from the floor and back to it."""
    points: list[Point] = [(frame.x(low), frame.floor)]
    for index, share in enumerate(shares):
        y = frame.y(share)
        points += [(frame.x(low + index * step), y), (frame.x(low + (index + 1) * step), y)]
    points.append((points[-1][0], frame.floor))
    return f'<polygon class="{name}" points="{_points(points)}"/>'


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _shares(histogram: Histogram, low: float, high: float, step: float) -> list[float]:
    """The histogram in wider bins from `low` to `high`; what lies outside is in the first and the last."""
    shares = [0.0] * max(1, round((high - low) / step))
    total = histogram.total or 1
    for number, count in histogram.bins.items():
        value = (number - histogram.upper + 0.5) * histogram.step
        index = min(max(int((value - low) / step), 0), len(shares) - 1)
        shares[index] += count / total
    return shares


def _quantile(histogram: Histogram, share: float) -> float:
    """Lower edge of the bin that holds the quantile."""
    left = share * histogram.total
    for number in sorted(histogram.bins):
        left -= histogram.bins[number]
        if left <= 0:
            return (number - histogram.upper) * histogram.step
    return 0.0


def _bin_width(low: float, high: float, bins: int) -> float:
    """A multiple of 0.1 that makes about this many bins."""
    return 0.1 * max(1, math.ceil((high - low) / bins / 0.1 - 1e-9))


def _round_up(value: float) -> float:
    """The next value that makes a readable scale."""
    scale = 10 ** math.floor(math.log10(value))
    return next(factor * scale for factor in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if factor * scale >= value * 0.999)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between the two."""
    rough = (high - low) / about
    scale = 10 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _text(value: float) -> str:
    """As few decimals as the value needs, at most two."""
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")
