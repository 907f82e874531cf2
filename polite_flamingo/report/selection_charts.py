"""Draw the two charts of a selection's report: rewards before and after, and what-if curves of thresholds.

The text of a chart has the page's size only at the chart's own width, so a page draws a narrow and a wide one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from polite_flamingo.filters.thresholds import Check
from polite_flamingo.formatting import trimmed
from polite_flamingo.report.svg import Frame, Tick, picture, points, ticks, words
from polite_flamingo.selection.histograms import Curve, Histogram
from polite_flamingo.selection.statistics import Statistics


def reward_chart(statistics: Statistics, *, width: float) -> Markup:
    """Draw histograms of the rewards of annotations, of rewritten texts, and of kept texts."""
    raw, rewritten, kept = statistics.reward_raw, statistics.reward, statistics.reward_kept
    total = statistics.total()
    means = {"raw": total.reward_raw.value, "kept": total.reward_kept.value}
    found = [histogram for histogram in (raw, rewritten, kept) if histogram.total]
    if not found:
        return Markup("")
    low = min(_quantile(histogram, 0.002) for histogram in found)
    high = max(_quantile(histogram, 0.998) for histogram in found) + raw.step
    step = 0.1 * max(1, math.ceil((high - low) / 36 / 0.1 - 1e-9))  # about 36 bins, whose width is a multiple of 0.1
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    histograms = {"raw": raw, "all": rewritten, "kept": kept}
    shares = {name: _shares(histogram, low, high, step) for name, histogram in histograms.items()}
    top = _round_up(max(map(max, shares.values())) or 1.0)
    frame = Frame(width=width, height=290, across=(low, high), up=(0, top), above=54)
    body = [_axes(frame, "reward (logit)", "share of samples", [0, top / 2, top])]
    body += [_steps(frame, shares_of, step, f"area {name}") for name, shares_of in shares.items()]
    known = {name: mean for name, mean in means.items() if mean is not None}
    for row, (name, mean) in enumerate(known.items()):
        y = frame.above - 24 + 15 * row  # one row per mean: they may be equal
        body.append(frame.upright(f"mean {name}", mean, y - 10))
        body.append(_tag(frame, mean, y, f"{'annotations' if name == 'raw' else 'kept'} {trimmed(mean, 2)}", name))
    title = "Reward, mean of " + " and ".join(f"{name}: {trimmed(mean, 2)}" for name, mean in known.items())
    return picture(title, width, frame.height, body, fills=True)


def what_if_chart(check: Check, curve: Curve, value: float | None, *, width: float) -> Markup:
    """Draw the share of judged samples that would be kept if only this threshold moved.

    If the check is off (`value` is None), the dot shows the share that it would keep at its suggested threshold.
    """
    judged = curve.scores.total
    threshold = check.suggested if value is None else value
    if not judged or threshold is None:
        return Markup("")
    low, high = _quantile(curve.scores, 0.01), _quantile(curve.scores, 0.98) + check.step
    if low - (high - low) < threshold < high + (high - low):  # close enough to be drawn
        low, high = min(low, threshold - 2 * check.step), max(high, threshold + 2 * check.step)
    step = check.step * max(1, math.ceil((high - low) / check.step / 60))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    frame = Frame(width=width, height=216, across=(low, high), left=42, above=40)
    shares = _shares(curve.scores, low, high, step)
    peak = max(shares) or 1.0
    values = [low + i * step for i in range(round((high - low) / step) + 1)]
    line = [(frame.x(v), frame.y(curve.deciding.satisfying(check.comparison, v) / judged)) for v in values]
    now = curve.kept / judged
    kept = now if value is not None else curve.deciding.satisfying(check.comparison, threshold) / judged
    arrow = " →" if threshold > high else " ←" if threshold < low else ""
    label = f"{kept:.0%} at {trimmed(threshold, 2)}{arrow}{f', now {now:.0%}' if value is None else ''}"
    body = [
        _axes(frame, check.label, "share kept", [0, 0.5, 1]),
        _steps(frame, [0.45 * share / peak for share in shares], step, "area judged"),
        f'<polyline class="curve" points="{points(line)}"/>',
        frame.upright("threshold", threshold, frame.above - 17),
        f'<circle class="{"suggested" if value is None else "now"}" cx="{frame.x(threshold):.1f}" '
        f'cy="{frame.y(kept):.1f}" r="4.5"/>',
        _tag(frame, threshold, frame.above - 7, label, "now"),
    ]
    title = f"{check.label}, {check.rule(threshold)}: {kept:.1%} of {judged:,} judged samples are kept"
    if value is None:
        title = f"{title.removesuffix('are kept')}would be kept; this check is off: {now:.1%} are"
    return picture(title, width, frame.height, body, fills=True)


def _axes(frame: Frame, x_label: str, y_label: str, shares: Sequence[float]) -> str:
    """Draw both axes; the vertical one shows shares."""
    y_ticks: list[Tick] = [(share, f"{share:.{0 if frame.up[1] >= 0.1 else 1}%}") for share in shares]
    places = 2 if frame.across[1] - frame.across[0] >= 0.1 else 4
    x_ticks = [(tick, trimmed(tick, places)) for tick in ticks(*frame.across, 4 if frame.width < 500 else 9)]
    return frame.axes(x_label=x_label, y_label=y_label, x_ticks=x_ticks, y_ticks=y_ticks)


def _tag(frame: Frame, value: float, y: float, text: str, kind: str) -> str:
    """Write beside a value, on the side where there is more room."""
    x = frame.x(value)
    anchor, shift = ("start", 5) if x < frame.width * 0.6 else ("end", -5)
    return words(x + shift, y, text, kind=f"tag {kind}", anchor=anchor)


def _steps(frame: Frame, shares: Sequence[float], step: float, name: str) -> str:
    """Draw a histogram as one outline, from the floor and back to it."""
    low, _ = frame.across
    outline = [(frame.x(low), frame.floor)]
    for index, share in enumerate(shares):
        outline += [(frame.x(low + (index + end) * step), frame.y(share)) for end in (0, 1)]
    outline.append((outline[-1][0], frame.floor))
    return f'<polygon class="{name}" points="{points(outline)}"/>'


def _shares(histogram: Histogram, low: float, high: float, step: float) -> list[float]:
    """Return shares in wider bins from `low` to `high`; values outside are counted in the first and last bin."""
    shares = [0.0] * max(1, round((high - low) / step))
    total = histogram.total or 1
    for bin_number, count in histogram.bins.items():
        value = (bin_number - histogram.upper + 0.5) * histogram.step
        index = min(max(int((value - low) / step), 0), len(shares) - 1)
        shares[index] += count / total
    return shares


def _quantile(histogram: Histogram, share: float) -> float:
    """Return the lower edge of the bin that holds the quantile."""
    left = share * histogram.total
    for bin_number in sorted(histogram.bins):
        left -= histogram.bins[bin_number]
        if left <= 0:
            return (bin_number - histogram.upper) * histogram.step
    return 0.0


def _round_up(value: float) -> float:
    """Round up to a value that makes a readable scale."""
    scale = 10 ** math.floor(math.log10(value))
    return next(factor * scale for factor in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if factor * scale >= value * 0.999)
