"""Make the page of an evaluation: means by task, win rates, the alignment tax, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from polite_flamingo.evaluation.bootstrap import Estimate
from polite_flamingo.evaluation.examples import Example
from polite_flamingo.evaluation.judging import RAW, REWRITTEN
from polite_flamingo.evaluation.markdown import interval
from polite_flamingo.evaluation.metrics import METRICS, shown
from polite_flamingo.evaluation.multiple_choice import COMPARED
from polite_flamingo.evaluation.results import Results
from polite_flamingo.formatting import fixed
from polite_flamingo.report.chart_types import Bar, Cell, bars, heat_map
from polite_flamingo.report.gallery import Thumbnail, thumbnail
from polite_flamingo.report.selection import TASK_NAMES
from polite_flamingo.report.template import fill
from polite_flamingo.storage.run_info import RunInfo

MAX_PICTURES = 4
"""Most images shown per sample."""


def page(
    results: Results, examples: Sequence[Example], *, run: RunInfo, unreadable: Mapping[str, int] | None = None,
    contestants: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the page as HTML.

    Args:
        results: the results to show.
        examples: samples to show.
        run: the run that made the results.
        unreadable: reason -> number of input rows that could not be read.
        contestants: name -> its model, server or file.
    """
    return fill(
        "evaluation",
        styles=("chart_types",),
        run=run,
        results=results,
        confidence=f"{100 * results.resampling.confidence:g} %",
        best=best(results),
        metrics=METRICS,
        compared=COMPARED,
        task_names=TASK_NAMES,
        heading=heading,
        wins=win_map(results),
        controlled=controlled_map(results),
        charts={task: charts(results, task) for task in results.tasks},
        rows=[(name, (contestants or {}).get(name, "the input")) for name in results.contestants],
        unreadable=unreadable or {},
        examples=[(one, _pictures(one)) for one in examples if one.pick.apart is None],
        furthest=[(one, _pictures(one)) for one in examples if one.pick.apart is not None],
        raw=RAW,
        shown=shown,
        estimate=estimate,
        words=lambda value: "–" if value is None else f"{value:.1f}",
    )


def heading(task: str) -> str:
    """Return a task's name with a capital, as a heading."""
    name = TASK_NAMES.get(task, task)
    return name[:1].upper() + name[1:]


def best(results: Results) -> tuple[str, Estimate] | None:
    """Return the model that is most often preferred to the raw annotation, and its win rate."""
    rated = [
        (name, rates[RAW])
        for name, rates in results.wins.rates.items()
        if name not in (RAW, REWRITTEN) and RAW in rates and rates[RAW].value is not None
    ]
    return max(rated, key=lambda pair: pair[1].value or 0.0, default=None)


def win_map(results: Results) -> Markup:
    """Draw the win rates as a heat map."""

    def cell(row: str, column: str) -> Cell | None:
        if row == column:
            return None
        rate, tied = results.wins.rates[row][column], results.wins.ties[row][column]
        if rate.value is None:
            return Cell(text="–", title=f"{row} and {column} have no sample in common")
        return Cell(
            text=shown("accuracy", rate.value).removesuffix(" %"),
            small=interval("accuracy", rate) if rate.low is not None else "",
            shade=2 * rate.value - 1,
            title=f"{row} is preferred to {column} on {shown('accuracy', rate.value)} of {rate.n:,} samples; "
            f"{shown('accuracy', tied)} are ties",
        )

    names = results.contestants
    cells = [[cell(row, column) for column in names] for row in names]
    return heat_map("Win rate of the row against the column, in per cent", names, with_words(results), cells)


def controlled_map(results: Results) -> Markup | None:
    """Draw the win rates at equal length as a heat map; None for results of earlier versions, which have none."""
    if not results.controlled:
        return None

    def cell(row: str, column: str) -> Cell | None:
        if row == column:
            return None
        found = results.controlled[row][column]
        if found.rate.value is None or found.slope.value is None:
            return Cell(text="–", title=f"{row} and {column} have no sample in common")
        return Cell(
            text=shown("accuracy", found.rate.value).removesuffix(" %"),
            small=interval("accuracy", found.rate) if found.rate.low is not None else "",
            shade=2 * found.rate.value - 1,
            title=f"at equal length, {row} is preferred to {column} on {shown('accuracy', found.rate.value)} of "
            f"{found.rate.n:,} samples; slope of length {fixed(found.slope.value)}",
        )

    names = results.contestants
    cells = [[cell(row, column) for column in names] for row in names]
    return heat_map("Win rate at equal length, in per cent", names, with_words(results), cells)


def with_words(results: Results) -> list[str]:
    """Return the contestants' names, each with the mean number of words of its answers, as headings of columns."""
    return [f"{name} · {fixed(results.answers[name].words, 1)}" for name in results.contestants]


def charts(results: Results, task: str) -> list[tuple[str, Markup]]:
    """Return (metric, bar chart) for a task, without the raw annotation's scores against itself."""
    found = []
    for metric, means in results.tasks[task].means.items():
        scale = 100 if METRICS[metric].share else 1
        values = [
            Bar(
                name=name,
                value=scale * one.value,
                low=None if one.low is None else scale * one.low,
                high=None if one.high is None else scale * one.high,
                kind="quiet" if name == RAW else "bright" if name == REWRITTEN else "",
                text=shown(metric, one.value),
            )
            for name, one in means.items()
            if one.value is not None and (name != RAW or metric == "reward")
        ]
        if values:
            found.append((metric, bars(f"{METRICS[metric].label}, {TASK_NAMES.get(task, task)}", values)))
    return found


def estimate(metric: str, one: Estimate | None, *, sign: bool = False) -> Markup:
    """Return a value and, smaller, its interval as HTML."""
    if one is None or one.value is None:
        return Markup("–")
    value = shown(metric, one.value, sign=sign)
    small = "" if one.low is None else Markup(' <span class="ci">{}</span>').format(interval(metric, one, sign=sign))
    return Markup("{}{}").format(value, small)


def _pictures(one: Example) -> list[Thumbnail]:
    return [thumbnail(image.data, side=240) for image in one.sample.images[:MAX_PICTURES]]
