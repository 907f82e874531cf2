"""Show the results of a repeated paper as one HTML page, and as Markdown.

Every verdict is computed (`claims.py`); a cell holds the mean over seeds and half its interval. The paper's own figures
stand beside them, marked as such. Texts of datasets and models are escaped (`report/template.py`).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

from polite_flamingo.formatting import table
from polite_flamingo.report.template import fill
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.testbed.paper.charts import reward_boxes, stage_lines
from polite_flamingo.testbed.paper.claims import ABLATIONS, GENERATIONS_PUBLISHED, PUBLISHED, findings
from polite_flamingo.testbed.paper.measures import (
    MEASURES,
    REWRITING,
    gain,
    level,
    of_annotations,
    rewritten,
    tax,
)
from polite_flamingo.testbed.paper.results import GENERATIONS, PaperResults, Role
from polite_flamingo.testbed.study.charts import effect
from polite_flamingo.testbed.study.measures import shown
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

TABLE: tuple[tuple[Role, str], ...] = (
    ("base", "base, untuned"),
    ("text_only", "text only"),
    ("stage_1", "after stage 1"),
    ("stage_2", "after stage 2"),
    ("clever", "Clever Flamingo (after stage 3)"),
    ("raw", "tuned on raw annotations"),
    ("template", "tuned on templates"),
    ("first_only", "Clever Flamingo, first picture only"),
)
TITLES: dict[Role, str] = {
    **dict(TABLE),
    "direct": "no stage 1",
    "unfrozen": "LoRA unfrozen in stage 2",
    "twice": "twice the epochs of stage 2",
    "tower": "vision tower unfrozen in stage 2",
    "coarse": "pictures of 64 pixels",
    "template": "tuned on templates",
    "first_only": "Clever Flamingo, first picture only",
}
COLUMNS = (
    "captions", "accuracy_in", "nli_in", "accuracy_out", "nli_out", "changes", "changes_sts", "changes_rouge",
    "politeness", "win",
)  # fmt: skip
TEXT_COLUMNS = ("text_accuracy", "text_politeness")


def model_rows(results: PaperResults) -> list[TableRow]:
    """Return the paper's table 1 as measured here; the first row is the annotations themselves."""
    rows = [
        TableRow(
            name="raw annotations",
            cells=tuple(
                cell(of_annotations(results, key), MEASURES[key]) if key == "politeness" else Cell(text="–")
                for key in COLUMNS
            ),
        )
    ]
    for role, name in TABLE:
        if role in results.roles:
            rows.append(
                TableRow(name=name, cells=tuple(cell(level(results, role, key), MEASURES[key]) for key in COLUMNS))
            )
    return rows


def text_rows(results: PaperResults) -> list[TableRow]:
    """Return what models can do without pictures, and their alignment tax against the text-only model."""
    rows = []
    for role, name in TABLE:
        if role in results.roles:
            cells = [cell(level(results, role, key), MEASURES[key]) for key in TEXT_COLUMNS]
            if "text_only" in results.roles:
                taxed = role != "text_only"
                cells += [
                    cell(tax(results, role, key), MEASURES[key], sign=True) if taxed else Cell(text="–")
                    for key in TEXT_COLUMNS
                ]
            rows.append(TableRow(name=name, cells=tuple(cells)))
    return rows


def ablation_rows(results: PaperResults) -> list[TableRow]:
    """Return the paper's table 3: the effect of each change; under each difference, what the paper says about it."""
    rows = []
    for role, (name, *said) in ABLATIONS.items():
        if role not in results.roles:
            continue
        cells = []
        for key, paper in zip(("accuracy_in", "accuracy_out", "politeness"), said, strict=True):
            cells.append(cell(level(results, role, key), MEASURES[key]))
            if role != "clever":
                under = f"paper: {paper}" if paper else ""
                cells.append(cell(gain(results, role, "clever", key), MEASURES[key], sign=True, under=under))
            else:
                cells.append(Cell(text=""))
        rows.append(TableRow(name=name, cells=tuple(cells)))
    return rows


def generation_rows(results: PaperResults) -> list[TableRow]:
    """Return a row for each generation of the rewriter."""
    return [
        TableRow(
            name="written by template" if generation == "template" else f"{generation} generation",
            cells=tuple(cell(rewritten(results, generation, key), measure) for key, measure in REWRITING.items()),
        )
        for generation in GENERATIONS
        if any(generation in seed.rewrites for seed in results.seeds)
    ]


def render(results: PaperResults) -> str:
    """Return the page as HTML."""
    found = findings(results)
    return fill(
        "paper",
        folder=Path(__file__).parent,
        styles=("chart_types", "study"),
        results=results,
        run=results.run,
        started=datetime.fromisoformat(results.run.started).strftime("%-d %B %Y, %H:%M %Z").strip(),
        seeds=[seed.number for seed in results.seeds],
        findings=[(one, said_of(one), effect(one), measured(one), remarks(one)) for one in found],
        counts=Counter(finding.verdict for finding in found),
        marks=MARKS,
        rewards=[reward_boxes(results, width=width) for width in (360, 1060)],
        generations=generation_rows(results),
        generations_published=GENERATIONS_PUBLISHED,
        generation_columns=list(REWRITING.values()),
        politeness=stage_lines(results, ("politeness",), y_label="reward", width=520),
        accuracy=stage_lines(results, ("accuracy_in", "accuracy_out", "text_accuracy"), y_label="per cent", width=520),
        ablations=ablation_rows(results),
        models=model_rows(results),
        model_columns=[MEASURES[key] for key in COLUMNS],
        texts=text_rows(results),
        text_columns=[MEASURES[key] for key in TEXT_COLUMNS],
        taxed="text_only" in results.roles,
        published=PUBLISHED,
        rises=_rises(results),
        examples={kind: [one for one in results.examples if one.kind == kind] for kind in ("rewritten", "answered")},
        titles={results.roles[role]: title for role, title in TITLES.items() if role in results.roles},
        counted=counts_of(results),
    )


def _rises(results: PaperResults) -> list[tuple[str, str]]:
    """Return the two rises of the headline, (from → to, what rises), if the results have them."""
    found = []
    if any("first" in seed.rewrites for seed in results.seeds):
        ends = [shown(rewritten(results, "first", key).value, REWRITING[key]) for key in ("reward_raw", "reward")]
        found.append((" → ".join(ends), "mean reward, annotations → rewritten"))
    if {"base", "clever"} <= {*results.roles}:
        before, after = (level(results, role, "accuracy_in").value or 0.0 for role in _ENDS)
        found.append(
            (f"{100 * before:.0f} → {100 * after:.0f} %", "correct about unseen pictures, base → Clever Flamingo")
        )
    return found


_ENDS: tuple[Role, Role] = ("base", "clever")


def write_paper(results: PaperResults, path: Path) -> None:
    """Write the page, atomically."""
    write_atomically(path, render(results))


def to_markdown(results: PaperResults, title: str = "The paper repeated on Shapes") -> str:
    """Return the tables as Markdown, without charts and samples."""
    found = findings(results)
    lines = [
        f"# {title}",
        "",
        f"{len(results.seeds)} seed{'s' if len(results.seeds) > 1 else ''}, {results.minutes:.0f} minutes, "
        f"{results.hardware}. `{results.run.command}`",
        f"Distorted by {results.speaker}.",
        "",
        *(line for caveat in results.caveats for line in (caveat, "")),
        "Mean ± half of the 95 % interval, with seeds and questions both random, on which verdicts are based. Effects "
        "within the margin, which was fixed beforehand, count as none. The column “paper” holds the paper's own "
        "figures (arXiv 2307.01003): other models, other data.",
        "",
        f"## Claims: {tally(found)}",
        "",
        *table(
            ["", "claim", "measured", "", "paper"],
            claim_rows(found),
        ),
        "",
        "## Models (table 1)",
        "",
        *rows_of(["", *(f"{MEASURES[key].label}{MEASURES[key].unit}" for key in COLUMNS)], model_rows(results)),
        "",
        "The paper's own figures, for other models and other data, in hundredths:",
        "",
        *table(
            ["", "", ""], [[one.name, column, figures] for one in PUBLISHED for column, figures in one.numbers]
        ),
        "",
        "## Without pictures: the alignment tax",
        "",
        *rows_of(
            ["", *(MEASURES[key].label for key in TEXT_COLUMNS), "tax, accuracy", "tax, politeness"],
            text_rows(results),
        ),
        "",
        "## Ablations (table 3)",
        "",
        *rows_of(
            ["", "in domain, %", "minus Clever", "out of domain, %", "minus Clever", "politeness", "minus Clever"],
            ablation_rows(results),
        ),
        "",
        "## Generations of the rewriter (figure 4)",
        "",
        *table(
            ["", *(one.label + one.unit for one in REWRITING.values())],
            [
                *([row.name, *(one.plain for one in row.cells)] for row in generation_rows(results)),
                *([one.name, *(figure for _, figure in one.numbers)] for one in GENERATIONS_PUBLISHED),
            ],
        ),
        "",
    ]  # fmt: skip
    return "\n".join(lines)
