"""Draw the effect of a claim, and measures as points of a line."""

from __future__ import annotations

from markupsafe import Markup

from polite_flamingo.report.chart_types import Point
from polite_flamingo.report.svg import Frame, picture, words
from polite_flamingo.testbed.study.claims import Finding
from polite_flamingo.testbed.study.measures import Measure, Spread, shown

SHARES = ("right", "accuracy", "win")
"""Metrics that lie between 0 and 1."""


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


def point(x: float, found: Spread, measure: Measure) -> Point:
    """Return a mean with its interval as a point; shares are cut to 0 and 1, which an interval may exceed."""
    value, low, high = (_plotted(end, measure) for end in (found.value, found.low, found.high))
    return Point(x=x, y=value or 0.0, low=low, high=high)


def _plotted(value: float | None, measure: Measure) -> float | None:
    if value is None:
        return None
    return measure.scale * (min(max(value, 0.0), 1.0) if measure.metric in SHARES else value)
