"""Make the page of an audit of preferences: verdicts first, then a section per check, then the pairs to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.formatting import fixed, trimmed
from polite_flamingo.preference.audit.audit import Audit
from polite_flamingo.preference.audit.check import Check, Measure, Rows
from polite_flamingo.preference.audit.evidence import sides_of
from polite_flamingo.preference.audit.limits import Verdict
from polite_flamingo.preference.audit.page_texts import TEXTS
from polite_flamingo.preference.audit.suspicious import Suspicion
from polite_flamingo.report.chart_types import Bar, Cell, Line, Point, bars, heat_map, lines
from polite_flamingo.report.gallery import Thumbnail, readable, thumbnail
from polite_flamingo.report.template import fill
from polite_flamingo.sample import Sample, unmarked
from polite_flamingo.storage.run_info import RunInfo

VERDICTS: Mapping[Verdict, str] = {"pass": "passes", "warn": "warns", "fail": "fails", "not_measured": "not measured"}

HEADLINES: Mapping[Verdict, str] = {
    "pass": "Nothing found that speaks against these preferences",
    "warn": "These preferences need a closer look",
    "fail": "These preferences should not be trained on as they are",
    "not_measured": "Nothing could be measured",
}

MAX_TEXT = 900
"""Most characters of an answer on the page."""

MAX_PICTURES = 4


@dataclass(frozen=True, kw_only=True)
class Side:
    """One answer of a pair on the page.

    Attributes:
        name: "chosen" or "rejected".
        text: of readable length.
        scores: judge -> its mean score.
        reason: what the judge wrote about it.
    """

    name: str
    text: str
    scores: Sequence[tuple[str, str]]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A suspicious pair on the page."""

    key: str
    reasons: Sequence[str]
    before: Sequence[tuple[str, str]]
    question: str
    pictures: Sequence[Thumbnail]
    sides: Sequence[Side]


def page(
    result: Audit, samples: Mapping[tuple[str, str], Sample], *, run: RunInfo, failed: Mapping[str, int]
) -> str:  # fmt: skip
    """Return the page as HTML.

    Args:
        result: the audit.
        samples: shard and key -> sample, of the suspicious pairs.
        run: the run that made it.
        failed: reason -> number of rows that could not be read.
    """
    return fill(
        "audit",
        folder=Path(__file__).parent,
        styles=("chart_types",),
        result=result,
        headline=HEADLINES[result.verdict],
        verdicts=VERDICTS,
        texts=TEXTS,
        key_figure=key_figure,
        figure=figure,
        charts={check.name: [*charts(check)] for check in result.checks},
        cards=[
            card(one, samples[one.pair.shard, one.pair.key], result)
            for one in result.suspicious
            if (one.pair.shard, one.pair.key) in samples
        ],
        failed=failed,
        run=run,
    )


def key_figure(check: Check) -> Measure | None:
    """Return the figure that a check's verdict rests on, if there is one."""
    judged = [one for one in check.measures if one.limit and one.verdict == check.verdict]
    return judged[0] if judged else None


def shown(one: Measure) -> str:
    """Return a figure with its interval, as text."""
    small = interval(one)
    return _number(one, one.found.value) + (f" ({small})" if small else "")


def figure(one: Measure) -> Markup:
    """Return a figure and, smaller, its interval as HTML."""
    small = interval(one)
    value = Markup("{}").format(_number(one, one.found.value))
    return value + (Markup(' <span class="ci">{}</span>').format(small) if small else Markup(""))


def interval(one: Measure) -> str:
    """Return the interval of a figure; "" if it has none."""
    if one.found.low is None or one.found.high is None:
        return ""
    return f"{_number(one, one.found.low, unit=False)} to {_number(one, one.found.high, unit=False)}"


def _number(one: Measure, value: float | None, *, unit: bool = True) -> str:
    if value is None or not one.share:
        return fixed(value)
    return fixed(100 * value, 1) + (" %" if unit else "")


def charts(check: Check) -> Iterator[tuple[str, Markup]]:
    """Yield caption and drawing of each chart of a check."""
    for name, rows in check.charts.items():
        if rows:
            caption, draw = CHARTS[name]
            yield caption, draw(caption, rows)


def _histogram(title: str, rows: Rows) -> Markup:
    whole = all(_value(high) - _value(low) == 1 for low, high, _ in rows)
    return bars(
        title,
        [
            Bar(
                name=trimmed(_value(low)) if whole else f"{trimmed(_value(low), 2)} to {trimmed(_value(high), 2)}",
                value=_value(count),
                kind="bright" if _value(low) < 0 else "",
                text=f"{_value(count):,.0f}",
            )
            for low, high, count in rows
        ],
    )


def _shares(title: str, rows: Rows) -> Markup:
    return bars(title, [_bar(row, 100, " %") for row in rows], shows=(0, 100))


def _places(title: str, rows: Rows) -> Markup:
    return bars(title, [_bar(row, 1, "") for row in rows], shows=(-0.25, 0.25))


def _kappas(title: str, rows: Rows) -> Markup:
    return bars(title, [_bar(row, 1, "") for row in rows], shows=(0, 1))


def _bar(row: Sequence[float | str | None], factor: float, unit: str) -> Bar:
    name, value, low, high = row
    return Bar(
        name=str(name),
        value=factor * _value(value),
        low=None if low is None else factor * _value(low),
        high=None if high is None else factor * _value(high),
        text=fixed(factor * _value(value), 1 if factor == 100 else 2) + unit,
    )


def _curve(title: str, rows: Rows) -> Markup:
    points = [Point(x=_value(x), y=100 * _value(y)) for x, y, _ in rows]
    return lines(
        title, [Line(name="longer one chosen", points=points)],
        x_label="difference of lengths in characters", y_label="%", height=240,
    )  # fmt: skip


def _majorities(title: str, rows: Rows) -> Markup:
    names = [f"{_value(count):.0f} reading{'s' if _value(count) > 1 else ''}" for count, _ in rows]
    values = [100 * _value(wrong) for _, wrong in rows]
    return bars(
        title, [Bar(name=n, value=v, text=f"{v:.1f} %") for n, v in zip(names, values, strict=True)], shows=(0, 25)
    )


def _correlations(title: str, rows: Rows) -> Markup:
    found = {frozenset((str(row[0]), str(row[1]))): row for row in rows}

    def cell(left: str, right: str) -> Cell | None:
        row = found.get(frozenset((left, right)))
        if row is None or row[2] is None:
            return None
        small = "" if row[3] is None else f"{fixed(_value(row[3]))} to {fixed(_value(row[4]))}"
        said = f"{left} and {right}: correlation {fixed(_value(row[2]))}"
        return Cell(text=fixed(_value(row[2])), small=small, shade=_value(row[2]), title=said)

    above, left = ATTRIBUTES[:-1], ATTRIBUTES[1:]
    cells = [[cell(row, column) if j <= i else None for j, column in enumerate(above)] for i, row in enumerate(left)]
    return heat_map(title, left, above, cells)


def _value(field: float | str | None) -> float:
    assert isinstance(field, int | float)
    return float(field)


CHARTS = {
    "margins": ("Pairs by how much higher the chosen answer is rated", _histogram),
    "correlations": ("Correlation of the differences between two answers", _correlations),
    "outcomes": ("How often the longer answer is chosen", _curve),
    "places": ("Ratings by place, in standard deviations from the mean", _places),
    "kappas": ("Cohen's kappa", _kappas),
    "kept": ("Choices kept", _shares),
    "majorities": ("Predicted label noise, if several readings are averaged", _majorities),
}
"""Caption and drawing of each chart, by the name that its check gives it."""


def card(one: Suspicion, sample: Sample, result: Audit) -> Card:
    """Return what the page shows of a suspicious pair."""
    *before, last = sample.turns
    places = one.pair.answers
    if sample.rejected is not None or places is None:
        texts = sides_of(sample)
    else:
        texts = sample.candidates[places[0]].text, sample.candidates[places[1]].text
    return Card(
        key=sample.key,
        reasons=one.reasons,
        before=[(readable(unmarked(turn.instruction)), readable(turn.response)) for turn in before],
        question=readable(unmarked(last.instruction).replace("(image)", "").strip()),
        pictures=[thumbnail(image.data, side=240) for image in sample.images[:MAX_PICTURES]],
        sides=[
            Side(
                name=name,
                text=readable(text, MAX_TEXT),
                scores=[*_scores(one, place)],
                reason=readable(_reason(sample, text, result.judge)),
            )
            for place, (name, text) in enumerate(zip(("chosen", "rejected"), texts, strict=True))
        ],
    )


def _scores(one: Suspicion, place: int) -> Iterator[tuple[str, str]]:
    """Yield each judge with its mean score of a side."""
    if one.pair.prompt is None or one.pair.answers is None:
        return
    answer = one.pair.answers[place]
    for judge in dict.fromkeys(reading.judge for reading in one.pair.prompt.readings):
        scores = one.pair.prompt.scores(judge)
        if answer in scores:
            yield judge, trimmed(scores[answer], 2)


def _reason(sample: Sample, text: str, judge: str) -> str:
    """Return what the judge first wrote about an answer, seeing its picture."""
    said = [
        rating.reason
        for candidate in sample.candidates
        if candidate.text == text
        for rating in candidate.ratings
        if rating.judge == judge and not rating.blind and rating.reason
    ]
    return said[0] if said else ""
