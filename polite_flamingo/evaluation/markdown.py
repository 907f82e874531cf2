"""Write results as Markdown tables, for a README, an issue or a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from polite_flamingo.evaluation.bootstrap import Estimate
from polite_flamingo.evaluation.metrics import METRICS, shown
from polite_flamingo.evaluation.results import Results
from polite_flamingo.formatting import table


def to_markdown(results: Results) -> str:
    """Return all tables of an evaluation."""
    confidence = f"{100 * results.resampling.confidence:g} %"
    lines = [
        "# Evaluation",
        "",
        f"{results.samples:,} samples, {len(results.contestants)} contestants. In brackets: {confidence} intervals, "
        f"{results.resampling.draws:,} draws of the samples, paired over contestants. "
        "The raw annotation is the ground truth: its own accuracy, Rouge-L and STS say nothing about quality.",
        *(
            f"\n**{name}: {', '.join(trouble)}.**"
            for name, one in results.answers.items()
            if (trouble := one.trouble())
        ),
        "",
    ]
    for task, result in results.tasks.items():
        lines += [f"## {task}, {result.samples:,} samples", ""]
        lines += _table(
            ["", *(METRICS[metric].label for metric in result.means)],
            [
                [name, *(_cell(metric, means.get(name)) for metric, means in result.means.items())]
                for name in results.contestants
                if any(name in means for means in result.means.values())
            ],
        )
        lines += [
            f"{METRICS[metric].label}: {count} samples are left out because not every contestant has a number for them."
            for metric, count in result.left_out.items()
            if count
        ] + [""]
    lines += ["## Mean reward over all tasks", ""]
    lines += _table(["", "Reward"], [[name, _cell("reward", one)] for name, one in results.reward.items()])
    lines += ["", "## Win rate: how often the row's reward is greater; a tie counts half", ""]
    lines += _table(
        ["", *results.contestants],
        [
            [row, *(_cell("accuracy", results.wins.rates[row].get(column)) for column in results.contestants)]
            for row in results.contestants
        ],
    )
    for metric, taxes in results.tax.items():
        tasks = list(dict.fromkeys(task for tax in taxes.values() for task in tax.tasks))
        lines += ["", f"## Alignment tax, {METRICS[metric].label}: {results.text_only} minus the model", ""]
        lines += _table(
            ["", *tasks, "total"],
            [
                [name, *(_cell(metric, tax.tasks.get(task), sign=True) for task in tasks),
                 _cell(metric, tax.total, sign=True)]
                for name, tax in taxes.items()
            ],
        )  # fmt: skip
    lines += ["", "## Answers", ""]
    lines += _table(
        ["", "answered", "empty", "other faults", "words", "equal to annotation", "not answered", "without a number"],
        [
            [
                name, f"{one.answered:,}", f"{one.empty:,}", _counts(one.faults),
                "–" if one.words is None else f"{one.words:.1f}", shown("accuracy", one.exact), _counts(one.missing),
                _counts(one.unscored),
            ]
            for name, one in results.answers.items()
        ],
    )  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table(head, rows, right=range(1, len(head)))


def _cell(metric: str, one: Estimate | None, *, sign: bool = False) -> str:
    if one is None or one.value is None:
        return "–"
    text = shown(metric, one.value, sign=sign)
    return text if one.low is None else f"{text} ({interval(metric, one, sign=sign)})"


def interval(metric: str, one: Estimate, *, sign: bool = False) -> str:
    """Return an interval as "low to high", without the unit."""
    return " to ".join(shown(metric, end, sign=sign).removesuffix(" %") for end in (one.low, one.high))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "0"
