"""What a selection prints at its end: the table of its counts, what changed, and what to do if nothing was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polite_flamingo.faults.hints import commonest, hint
from polite_flamingo.filters.thresholds import not_compared, not_scored
from polite_flamingo.formatting import money
from polite_flamingo.selection.difference import Difference
from polite_flamingo.selection.statistics import KEPT, DatasetCounts, Statistics
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.run_info import read_run, read_stats
from ray_jobs import console
from ray_jobs.progress import counted


def conclude(layout: OutputLayout, changed: Difference | None = None) -> None:
    """Print the table at the end of a job and what changed; say so if nothing was kept.

    Raises:
        AllFailed: every row was quarantined.
    """
    print_summary(layout)
    if changed:
        print(console.table(changed.rows(), "changes since the previous selection"))
    stats = read_stats(layout)
    rows, quarantined = stats["rows_in"], stats["quarantined"]
    if rows and sum(quarantined.values()) == rows:
        folder = layout.root / "quarantine"
        raise console.AllFailed(
            f"all {rows:,} rows were quarantined: {hint(quarantined)}; {folder} has each row's detail"
        )
    if rows and not stats["kept"]:
        reason = commonest(stats["rejected"])
        print(
            f"nothing was kept: every row that could be read was rejected, most often as {reason} "
            f"({stats['rejected'][reason]:,}). The report shows samples and what other thresholds would keep; "
            "polite-flamingo select applies them in seconds."
        )


def print_summary(layout: OutputLayout) -> None:
    """Print the table at the end of a job."""
    stats, run = read_stats(layout), read_run(layout)
    rejected, quarantined = stats["rejected"], stats["quarantined"]
    statistics = Statistics.from_json(stats["statistics"])
    total = statistics.total()
    cut = total.paragraphs_removed
    rows_in = stats["rows_in"]
    share = f" ({stats['kept'] / rows_in:.0%} of {rows_in:,} rows)" if rows_in else ""
    rows = [
        *_origin_rows(stats),
        ("kept", f"{stats['kept']:,}{share}"),
        *([("  shortened", f"{cut:,} paragraphs removed by CLIPScore; scores are of the whole text")] if cut else []),
        ("rejected", f"{sum(rejected.values()):,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in rejected.items()),
        ("quarantined", f"{sum(quarantined.values()):,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in quarantined.items()),
        *_turn_rows(total),
        ("reward", f"{_number(stats['reward_before'])} -> {_number(stats['reward_after'])}"),
        ("reward of kept", f"{_number(stats['reward_kept_before'])} -> {_number(stats['reward_kept_after'])}"),
        *_cost_rows(stats["cost"]),
    ]
    if run is not None and run.rows_per_second:
        rows.append(
            ("samples/s", f"{run.rows_per_second:.2f} ({counted(run.rows, 'row')} in {run.seconds['wall']:.0f} s)")
        )
    rows.append(("report", str(layout.report)))
    print(console.table(rows, f"{layout.root}"))
    note = run.note if run is not None else ""
    for line in filter(None, (stats["another_world"], note or not_compared(total.tasks), not_scored(total.not_scored))):
        print(line)
    if examples := statistics.quarantine.get(commonest(total.quarantined)):
        folder = layout.root / "quarantine"
        print(f"quarantined, for example: {examples[0].detail[:200]} ({folder} has each row's detail)")


def _cost_rows(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the table about tokens, device time and money; none for what did not occur."""
    tokens = {"prompt": "prompt_tokens", "cached": "cached_tokens", "generated": "generated_tokens"}
    sums = {name: sum(model[field] for model in cost["models"]) for name, field in tokens.items()}
    hours = {name: sum(model[f"{name.lower()}_hours"] for model in cost["models"]) for name in ("GPU", "CPU")}
    rows = [("tokens", ", ".join(f"{count:,} {name}" for name, count in sums.items() if count))]
    if reused := sum(model["answers_reused"] for model in cost["models"]):
        rows.append(("answers reused", f"{reused:,} of interrupted attempts, counted and paid for once"))
    rows += [("device hours", ", ".join(f"{count:.3f} {name}" for name, count in hours.items() if count))]
    if cost["money"]:
        currency, each = cost["prices"]["currency"], cost["per_million_kept"]
        share = "" if each is None else f", {money(each, currency)} per million kept"
        rows.append(("cost", money(cost["money"], currency) + share))
    return [row for row in rows if row[1]]


def _turn_rows(total: DatasetCounts) -> list[tuple[str, str]]:
    """Return the lines of the table about the turns of conversations; none if there are no conversations."""
    if not total.conversations:
        return []
    lost = [(f"  {reason}", f"{count:,}") for reason, count in total.turns.most_common() if reason != KEPT]
    whole = f"{total.turns.total():,} in {counted(total.conversations, 'conversation')}"
    return [("turns", whole), (f"  {KEPT}", f"{total.turns[KEPT]:,}"), *lost]


def _origin_rows(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the table from the annotation files to the rows of the build."""
    origin = stats["annotations"]
    shards = counted(stats["shards"], "shard")
    unknown = stats["rows_in"] - origin["rows_in"]
    if not origin["rows"]:
        return [("rows in", f"{stats['rows_in']:,} in {shards}")]
    rows = [("annotations", f"{origin['rows']:,} of {', '.join(origin['names'])}")]
    if quarantined := origin["quarantined"]:
        rows.append(("  quarantined", f"{sum(quarantined.values()):,} at ingest"))
        rows += [(f"    {reason}", f"{count:,}") for reason, count in quarantined.items()]
    if origin["left_out"]:
        rows.append(("  left out", f"{origin['left_out']:,} by sampling at ingest"))
    if origin["not_read"]:
        rows.append(("  not read", f"{origin['not_read']:,} in shards that are not in this build or cannot be read"))
    more = f", {unknown:,} of them of no known ingest" if unknown else ""
    return [*rows, ("rows in", f"{stats['rows_in']:,} in {shards}{more}")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
