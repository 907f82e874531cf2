"""Cells of tables, and findings in words, for the pages and Markdown of studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.formatting import table
from polite_flamingo.testbed.study.claims import Finding
from polite_flamingo.testbed.study.measures import Measure, Spread, shown
from polite_flamingo.testbed.study.results import Study

MARKS = {"shown": "✓", "no effect": "=", "disagrees": "✗", "open": "?"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number, half its interval over seeds, and a remark under it."""

    text: str
    reach: str = ""
    under: str = ""

    @property
    def plain(self) -> str:
        """The cell on one line."""
        return self.text + (f" ± {self.reach}" if self.reach else "") + (f" ({self.under})" if self.under else "")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table."""

    name: str
    cells: tuple[Cell, ...]


def cell(spread: Spread, measure: Measure, *, sign: bool = False, under: str = "") -> Cell:
    """Make a cell with a mean over seeds "±" half of its interval."""
    reach = None if spread.low is None or spread.high is None else (spread.high - spread.low) / 2
    return Cell(
        text=shown(spread.value, measure, sign=sign, unit=False),
        reach="" if reach is None else shown(reach, measure, unit=False),
        under=under,
    )


def measured(finding: Finding) -> str:
    """Format the number of a claim."""
    one = cell(finding.spread, finding.claim.measure, sign=finding.claim.against == 0)
    return f"{one.text}{f' ± {one.reach}' if one.reach else ''}{_unit(finding)}"


def _unit(finding: Finding, *, points: bool = False) -> str:
    """Return the number's unit: differences of shares are points, not per cent."""
    unit = finding.claim.measure.unit
    return " points" if unit == " %" and (points or finding.claim.against == 0) else unit


def said_of(finding: Finding) -> str:
    """Return the verdict in words: "no effect larger than 3.0 points"."""
    if finding.verdict != "no effect":
        return finding.verdict
    margin = shown(finding.claim.measure.margin, finding.claim.measure, unit=False)
    return f"no effect larger than {margin}{_unit(finding, points=True)}"


def remarks(finding: Finding) -> list[str]:
    """Return what else is known about a claim's number: the margin, how many questions and seeds."""
    claim, spread = finding.claim, finding.spread
    margin = shown(claim.measure.margin, claim.measure, unit=False) + _unit(finding, points=True)
    said = [f"margin {margin}{' from a half' if claim.against else ''}"]
    if spread.seeds:
        said += [f"{spread.questions:,} questions", f"{finding.agreeing} of {len(spread.seeds)} seeds agree"]
    return said


def tally(found: Sequence[Finding]) -> str:
    """Say how many claims have each verdict."""
    counts: Counter[str] = Counter(finding.verdict for finding in found)
    parts = [f"{counts[verdict]} {verdict}" for verdict in MARKS if counts[verdict]]
    return f"{', '.join(parts)} of {len(found)} claims"


def claim_rows(found: Sequence[Finding]) -> list[list[str]]:
    """Return the table of claims for Markdown."""
    return [
        [f"{MARKS[one.verdict]} {said_of(one)}", one.claim.text, f"{one.claim.what}: **{measured(one)}**",
         "; ".join(remarks(one)), one.claim.paper]
        for one in found
    ]  # fmt: skip


def counts_of(results: Study[Any]) -> list[tuple[str, list[float | None]]]:
    """Return what was counted along the way, with one column per seed."""
    names = dict.fromkeys(name for seed in results.seeds for name in seed.counts)
    return [(name, [seed.counts.get(name) for seed in results.seeds]) for name in names]


def rows_of(head: Sequence[str], rows: Sequence[TableRow]) -> list[str]:
    """Return a table in Markdown."""
    return table(head, [[row.name, *(one.plain for one in row.cells)] for row in rows])
