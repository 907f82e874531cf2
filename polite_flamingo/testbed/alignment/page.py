"""Show the results of `polite-flamingo align` as one HTML page, and as Markdown; the length of answers beside all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from polite_flamingo.formatting import table
from polite_flamingo.report.chart_types import Line, lines
from polite_flamingo.report.template import fill
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.testbed.alignment.claims import COLUMNS, PUBLISHED, findings
from polite_flamingo.testbed.alignment.measures import (
    MEASURES,
    at_equal_length,
    gain,
    level,
    rank_correlation,
)
from polite_flamingo.testbed.alignment.results import ROLES, AlignmentResults, Role
from polite_flamingo.testbed.study.charts import effect, point
from polite_flamingo.testbed.study.measures import Spread, shown
from polite_flamingo.testbed.study.page import (
    MARKS,
    Cell,
    TableRow,
    cell,
    claim_rows,
    counts_of,
    measured,
    remarks,
    rows_of,
    said_of,
    tally,
)

TITLES: dict[Role, str] = {
    "language": "language model (texts alone)",
    "start": "the start: Clever Flamingo",
    "sft": "SFT on annotations",
    "steerlm": "SteerLM, asked for the best",
    "steerlm_short": "SteerLM, asked for short ones",
    "steerlm_none": "SteerLM, asked for nothing",
    "rejection": "rejection sampling",
    "dpo": "DPO",
    "flips_25": "DPO, 25 % of labels flipped",
    "flips_50": "DPO, 50 % flipped",
    "flips_75": "DPO, 75 % flipped",
    "scale_25": "DPO, 25 % of the pairs",
    "scale_50": "DPO, 50 % of the pairs",
    "scale_75": "DPO, 75 % of the pairs",
    "by_reward": "DPO, pairs by the reward model",
}
SHOWN = ("score", "score_out", "accuracy_in", "accuracy_out", "text", "reward", "words", "win")
WAYS: tuple[Role, ...] = ("sft", "steerlm", "rejection", "dpo")
FLIPS: tuple[Role, ...] = ("dpo", "flips_25", "flips_50", "flips_75")
SCALE: tuple[Role, ...] = ("start", "scale_25", "scale_50", "scale_75", "dpo")
EQUAL_LENGTH = "at equal length"


def model_rows(results: AlignmentResults) -> list[TableRow]:
    """Return a row for each model: every measure, the win rate at equal length last."""
    return [
        TableRow(
            name=TITLES[role],
            cells=(*(_level(results, role, key) for key in SHOWN), _equal_length(results, role)),
        )
        for role in ROLES
        if role in results.roles
    ]


def _level(results: AlignmentResults, role: Role, key: str) -> Cell:
    if key == "win" and role == "start":
        return Cell(text="–")
    return cell(level(results, role, key), MEASURES[key])


def _equal_length(results: AlignmentResults, role: Role) -> Cell:
    found = at_equal_length(results, role).rate if role not in ("start", "language") else None
    if found is None or found.value is None:
        return Cell(text="–")
    rate = Spread(value=found.value, low=found.low, high=found.high, seeds=(), questions=found.n)
    return cell(rate, MEASURES["win"])


def gain_rows(results: AlignmentResults) -> list[TableRow]:
    """Return a row for each model: what it gains over the start, by difference on the same questions."""
    keys = [key for key in SHOWN if key != "win"]
    return [
        TableRow(
            name=TITLES[role],
            cells=tuple(cell(gain(results, role, "start", key), MEASURES[key], sign=True) for key in keys),
        )
        for role in ROLES
        if role in results.roles and role not in ("start", "language")
    ]


def by_length(results: AlignmentResults) -> str:
    """Say whether the ranking of the ways to align is that of their answers' lengths."""
    ways: tuple[Role, ...] = ("start", *WAYS)
    there = [role for role in ways if role in results.roles]
    words = [level(results, role, "words").value or 0.0 for role in there]
    found = []
    for key in ("score", "text"):
        rho = rank_correlation([level(results, role, key).value or 0.0 for role in there], words)
        found.append(f"{MEASURES[key].label}: {rho:.2f}".replace("-", "−"))
    return f"rank correlation with the number of words, over {len(there)} models: {'; '.join(found)}"


def curve(
    results: AlignmentResults, roles: Sequence[Role], names: Sequence[str], keys: Sequence[str], x: str
) -> Markup:
    """Draw measures of one unit over a series of models, with bands for their intervals."""
    there = [(role, name) for role, name in zip(roles, names, strict=True) if role in results.roles]
    series = [
        Line(
            name=MEASURES[key].label,
            points=[point(place, level(results, role, key), MEASURES[key]) for place, (role, _) in enumerate(there)],
        )
        for key in keys
    ]
    unit = "per cent" if MEASURES[keys[0]].scale == 100 else "score of 12"
    return lines(
        f"{unit}, by {x}", series, x_label=x, y_label=unit, width=520, x_names=[name for _, name in there],
    )  # fmt: skip


def render(results: AlignmentResults) -> str:
    """Return the page as HTML."""
    found = findings(results)
    flips, scale = ("0 %", "25 %", "50 %", "75 %"), ("none", "25 %", "50 %", "75 %", "all")
    scores, accuracies = ("score", "score_out"), ("accuracy_in", "accuracy_out", "text")
    return fill(
        "alignment",
        folder=Path(__file__).parent,
        styles=("chart_types", "study"),
        results=results,
        run=results.run,
        seeds=[seed.number for seed in results.seeds],
        findings=[(one, said_of(one), effect(one), measured(one), remarks(one)) for one in found],
        counts=Counter(finding.verdict for finding in found),
        marks=MARKS,
        models=model_rows(results),
        columns=[*(MEASURES[key].label + MEASURES[key].unit for key in SHOWN), EQUAL_LENGTH + " %"],
        gains=gain_rows(results),
        gain_columns=[MEASURES[key].label + _points(key) for key in SHOWN if key != "win"],
        by_length=by_length(results),
        flips=[curve(results, FLIPS, flips, keys, "labels flipped") for keys in (scores, accuracies)],
        scale=[curve(results, SCALE, scale, keys, "share of the pairs") for keys in (scores, accuracies)],
        published_columns=COLUMNS,
        published=PUBLISHED,
        rises=_rises(results),
        titles=TITLES,
        counted=counts_of(results),
    )


def _points(key: str) -> str:
    return ", points" if MEASURES[key].scale == 100 else ""


def _rises(results: AlignmentResults) -> list[tuple[str, str]]:
    """Return the headline's rises, (from → to, what), from the start to DPO."""
    if not {"start", "dpo"} <= {*results.roles}:
        return []
    found = []
    for key, what in (
        ("score", "score of 12 about pictures"),
        ("text", "correct on texts"),
        ("words", "words an answer"),
    ):
        ends = [shown(level(results, role, key).value, MEASURES[key], unit=False) for role in _ENDS]
        found.append((" → ".join(ends) + MEASURES[key].unit, f"{what}, start → DPO"))
    return found


_ENDS: tuple[Role, Role] = ("start", "dpo")


def write_alignment(results: AlignmentResults, path: Path) -> None:
    """Write the page, atomically."""
    write_atomically(path, render(results))


def to_markdown(results: AlignmentResults, title: str = "Preference alignment repeated on Shapes") -> str:
    """Return the tables as Markdown, without charts and samples."""
    found = findings(results)
    return "\n".join(
        [
            f"# {title}",
            "",
            f"{len(results.seeds)} seed{'s' if len(results.seeds) > 1 else ''}, {results.minutes:.0f} minutes, "
            f"{results.hardware}. `{results.run.command}`",
            "",
            *(line for caveat in results.caveats for line in (caveat, "")),
            "Mean ± half of the 95 % interval. Effects within the margin, which was fixed beforehand, count as none. "
            "The column “paper” holds the paper's own figures (arXiv 2402.10884): other models, other data.",
            "",
            f"## Claims: {tally(found)}",
            "",
            *table(["", "claim", "measured", "", "paper"], claim_rows(found)),
            "",
            "## Models",
            "",
            *rows_of(
                ["", *(MEASURES[key].label + MEASURES[key].unit for key in SHOWN), EQUAL_LENGTH + " %"],
                model_rows(results),
            ),
            "",
            f"Length: {by_length(results)}.",
            "",
            "## Less the start, question by question",
            "",
            *rows_of(["", *(MEASURES[key].label + _points(key) for key in SHOWN if key != "win")], gain_rows(results)),
            "",
            "## The paper's own tables",
            "",
            *table(["", *COLUMNS], [[name, *figures] for name, figures in PUBLISHED]),
            "",
            "## Counts along the way",
            "",
            *table(
                ["", *(f"seed {seed.number}" for seed in results.seeds)],
                [[name, *("–" if n is None else f"{n:,}" for n in row)] for name, row in counts_of(results)],
            ),
            "",
        ]
    )
