"""Write results as Markdown tables, for a README, an issue or a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polite_flamingo.evaluation.bootstrap import Estimate
from polite_flamingo.evaluation.metrics import METRICS, shown
from polite_flamingo.evaluation.multiple_choice import COMPARED
from polite_flamingo.evaluation.results import Results
from polite_flamingo.formatting import fixed, table


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
            ["", *(METRICS[metric].label for metric in result.means), "words"],
            [
                [
                    name,
                    *(_cell(metric, means.get(name)) for metric, means in result.means.items()),
                    fixed(result.words.get(name), 1),
                ]
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
    lines += _table(
        ["", "Reward", "words"],
        [[name, _cell("reward", one), _words(results, name)] for name, one in results.reward.items()],
    )
    lines += ["", "## Win rate: how often the row's reward is greater; a tie counts half", ""]
    lines += _rates(results, results.wins.rates)
    if results.controlled:
        lines += ["", "## Win rate at equal length: the same without what the difference of lengths explains", ""]
        lines += _rates(
            results,
            {row: {name: one.rate for name, one in found.items()} for row, found in results.controlled.items()},
        )
    lines += _yes_no(results)
    lines += _choices(results)
    for metric, taxes in results.tax.items():
        tasks = list(dict.fromkeys(task for tax in taxes.values() for task in tax.tasks))
        lines += ["", f"## Alignment tax, {METRICS[metric].label}: {results.text_only} minus the model", ""]
        lines += _table(
            ["", *tasks, "total", "words"],
            [
                [name, *(_cell(metric, tax.tasks.get(task), sign=True) for task in tasks),
                 _cell(metric, tax.total, sign=True), _words(results, name)]
                for name, tax in taxes.items()
            ],
        )  # fmt: skip
    lines += ["", "## Answers", ""]
    lines += _table(
        ["", "answered", "empty", "other faults", "words", "equal to annotation", "not answered", "without a number"],
        [
            [
                name, f"{one.answered:,}", f"{one.empty:,}", _counts(one.faults),
                fixed(one.words, 1), shown("accuracy", one.exact), _counts(one.missing),
                _counts(one.unscored),
            ]
            for name, one in results.answers.items()
        ],
    )  # fmt: skip
    return "\n".join(lines) + "\n"


def _rates(results: Results, rates: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    names = results.contestants
    return _table(
        ["", *names, "words"],
        [[row, *(_cell("accuracy", rates[row].get(one)) for one in names), _words(results, row)] for row in names],
    )


def _yes_no(results: Results) -> list[str]:
    if not results.yes_no:
        return []
    first = next(iter(results.yes_no.values()))
    said = f"{first.accuracy.n:,} questions, yes is right for {shown('accuracy', first.truth_share)}"
    rows = [
        [name, *(_cell("accuracy", number) for number in (one.accuracy, one.f1, one.yes_share)), fixed(one.words, 1)]
        for name, one in results.yes_no.items()
    ]
    return ["", f"## Yes or no, by PoPe's rule: {said}", "", *_table(["", "accuracy", "F1", "says yes", "words"], rows)]


def _choices(results: Results) -> list[str]:
    found = results.choices
    if found is None:
        return []
    lines = ["", f"## Multiple choice by log-probability, {COMPARED[found.by]}", ""]
    lines += _table(
        ["", "questions", "accuracy", "chance", "picks the longest", "longest is right", "no pick", "not asked"],
        [
            [
                name, f"{one.accuracy.n:,}", _cell("accuracy", one.accuracy), shown("accuracy", one.chance),
                shown("accuracy", one.longest), shown("accuracy", one.longest_right), f"{one.unpicked:,}",
                _counts(one.missing),
            ]
            for name, one in found.results.items()
        ],
    ) if found.results else ["No question with choices could be asked."]  # fmt: skip
    lines += [f"\n{note}" for note in found.notes()]
    return lines


def _words(results: Results, name: str) -> str:
    """Return the mean length of a contestant's answers, which stands beside every number: judges like long answers."""
    return fixed(results.answers[name].words, 1)


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
