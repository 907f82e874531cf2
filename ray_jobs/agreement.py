"""Measure how far a build's judge agrees with NLI and with people, and show it on the report.

    polite-flamingo agreement --out out/demo
    polite-flamingo agreement --out out/demo --labels labels.jsonl

A line of labels.jsonl is what a person thinks of one text: its key (of a turn of a conversation also its number), and
marks from 1 to 5 by the judge's axes, or whether it should be kept:

    {"key": "vqa/train/17", "relevance": 5, "correctness": 2}
    {"key": "talks/train/4", "turn": 2, "keep": false}

Lines about several answers, which `polite-flamingo vote` writes for the auditor, are passed over.

Spearman's rank correlation and Cohen's kappa come with 95 % intervals (bootstrap over texts). Reads OUT/scored, asks no
model, writes OUT/agreement.json, and selects again with the same thresholds, so that the report shows it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from polite_flamingo.config import fill
from polite_flamingo.conversations import parts_of
from polite_flamingo.cost import Prices
from polite_flamingo.evaluation.agreement import Ratings, agreements
from polite_flamingo.filters.judge import AXES, MARKS
from polite_flamingo.filters.thresholds import Thresholds, nli_margin
from polite_flamingo.sample import Sample
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import OutputLayout, read_scored
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import read_run, read_stats
from ray_jobs import console, select
from ray_jobs.replay_ledger import settle
from ray_jobs.selection_summary import conclude


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """What to compare.

    Attributes:
        out: the output folder of a build with a judge.
        labels: what people think: a file of JSON lines, see above.
        mark: marks from this on count as good where only good and bad are compared.
    """

    out: str
    labels: str = ""
    mark: int = 3

    def __post_init__(self) -> None:
        """Raise ValueError for a mark that leaves one side empty."""
        if self.mark not in MARKS[1:]:
            raise ValueError(f"mark must be from {MARKS[1]} to {MARKS[-1]}")


def job(config: AgreementConfig) -> None:
    """Run the job.

    Raises:
        ValueError: the folder holds no selection, no marks of a judge, or a line of the labels is wrong.
        AllFailed: every row was quarantined.
    """
    layout = OutputLayout(root=config.out)
    labels = read_labels(config.labels) if config.labels else {}
    if not layout.stats.exists():
        raise ValueError(f"{config.out} holds no finished selection; run polite-flamingo build or select first")
    with exclusive(layout.root):
        settle(layout)
        ratings, seen = Ratings(), set[tuple[str, int | None]]()
        for name in layout.finished():
            for sample in read_scored(layout, name):
                seen |= _add(ratings, sample, labels)
        if not ratings.judged:
            raise ValueError(f"{config.out} holds no marks of a judge; build with scoring.judge (docs/filters.md)")
        found = agreements(ratings, config.mark)
        run = read_run(layout)
        record = {
            "config_hash": run.config_hash if run else "",
            "judged": ratings.judged,
            "mark": config.mark,
            "labels": {"given": len(labels), "found": ratings.labelled},
            "agreements": [one.to_json() for one in found],
        }
        layout.agreement.put(json.dumps(record, indent=1) + "\n")
        print(console.table([one.row() for one in found], f"the judge's agreement, {ratings.judged:,} texts marked"))
        if strange := [key for key in labels if key not in seen]:
            shown = ", ".join(key if turn is None else f"{key} turn {turn}" for key, turn in strange[:MOST_NAMED])
            more = ", …" if len(strange) > MOST_NAMED else ""
            print(f"{len(strange):,} of {len(labels):,} labels are of texts that have no marks here: {shown}{more}")
        if 0 < ratings.labelled < FEW:
            print(f"only {ratings.labelled} texts have a label: these intervals say little, whatever their width")
        stats = read_stats(layout)
        thresholds = fill(Thresholds, stats["thresholds"])
        prices = fill(Prices, stats.get("cost", {}).get("prices") or {})
        conclude(layout, select.select(layout, thresholds, prices))


MOST_NAMED = 3
"""Most labels without marks that are named."""

FEW = 30
"""Fewer labels than this come with a warning: the bootstrap is too sure of so few."""

Labels = dict[tuple[str, int | None], dict[str, Any]]
"""Key and number of the turn (None for a sample of one turn) -> marks by axis, and `keep`."""


def read_labels(path: str) -> Labels:
    """Read a file of labels; later lines of one text add to earlier ones.

    Raises:
        ValueError: a line is wrong, or the file is missing; the message says which.
    """
    labels: Labels = {}
    try:
        text = location(path).read_text()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as labels: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and (label := _label(line, f"{path}, line {number}")):
            labels.setdefault(label[0], {}).update(label[1])
    return labels


FOR_THE_AUDITOR = ("vote", "answer")
"""Fields of a line about one of several answers to a prompt, or two of them."""


def _label(line: str, where: str) -> tuple[tuple[str, int | None], dict[str, Any]] | None:
    """Return what a line is about and what it says; None for a line that is not about a rewritten text."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise ValueError(f'{where}: needs a JSON object with a key, such as {{"key": "vqa/train/17", "keep": true}}')
    if any(name in record for name in FOR_THE_AUDITOR):
        return None
    turn, found = record.get("turn"), {name: value for name, value in record.items() if name not in ("key", "turn")}
    if turn is not None and (isinstance(turn, bool) or not isinstance(turn, int)):
        raise ValueError(f"{where}: turn must be a whole number")
    for name, value in found.items():
        good = isinstance(value, bool) if name == "keep" else type(value) is int and value in MARKS
        if name not in (*AXES, "keep"):
            raise ValueError(f"{where}: {name} is no label; known are {', '.join(AXES)} and keep")
        if not good:
            raise ValueError(
                f"{where}: {name} must be {'true or false' if name == 'keep' else 'a whole number from 1 to 5'}"
            )
    return (record["key"], turn), found


def _add(ratings: Ratings, sample: Sample, labels: Labels) -> set[tuple[str, int | None]]:
    """Add what the judge, NLI and people say of a sample's texts; return which labels were found."""
    seen = set[tuple[str, int | None]]()
    for number, part in parts_of(sample).items():
        marks = {axis: part.scores.get(f"judge_{axis}") for axis in AXES}
        known = {axis: float(mark) for axis, mark in marks.items() if type(mark) is int}
        if known:
            turn = None if len(sample.turns) == 1 else number
            places = [(sample.key, turn), *([(sample.key, 0)] if turn is None else [])]
            label = next((labels[place] for place in places if place in labels), {})
            seen |= {*places} & labels.keys()
            margin = nli_margin(part.scores["nli"]) if part.scores.get("nli") else None
            ratings.add(known, margin, label)
    return seen


main = partial(console.run, "agreement", __doc__, AgreementConfig, job)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
