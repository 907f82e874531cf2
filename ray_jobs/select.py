"""Apply other thresholds to a finished build: a new selection in seconds, without a model and without Ray.

    polite-flamingo select --out out/demo --thresholds.sts 0.5
    polite-flamingo select --out out/demo --profile mine.yaml

Thresholds that are not given stay as the build had them. Reads OUT/scored and OUT/quarantine; writes OUT/pf1m,
OUT/parquet, OUT/verdicts, the exports, the card, the report and, last, OUT/stats.json. Checks that every row that came
in is kept, rejected or quarantined. Holds one shard in memory at a time and never changes a score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.config import read_yaml
from polite_flamingo.faults.hints import commonest, hint
from polite_flamingo.filters.thresholds import Thresholds, not_compared
from polite_flamingo.report.gallery import collect_gallery
from polite_flamingo.report.selection import render
from polite_flamingo.selection.card import card
from polite_flamingo.selection.difference import Difference
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics, rejections
from polite_flamingo.storage import duplicates
from polite_flamingo.storage.json_exports import export_shard, join_exports
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import (
    OutputLayout,
    file_of,
    read_manifest,
    read_quarantine,
    read_scored,
    undamaged,
)
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.storage.parquet_export import write_parquet
from polite_flamingo.storage.provenance import Annotations, annotations_of
from polite_flamingo.storage.run_info import RunInfo, read_run, read_stats, write_stats
from polite_flamingo.storage.tar_export import forget_tars, place_tars, write_tars
from polite_flamingo.world import World
from ray_jobs import console
from ray_jobs.progress import counted
from ray_jobs.replay_ledger import settle, source_of


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """A new selection from the output folder of a build.

    Attributes:
        out: the output folder of a build.
        thresholds: what is kept; those that are not given stay as the build had them (OUT/config.yaml).
    """

    out: str
    thresholds: Thresholds = field(default_factory=Thresholds, metadata={"defaults_apply": False})


def select(layout: OutputLayout, thresholds: Thresholds) -> Difference | None:
    """Make the selection and everything that depends on it, shard by shard; write OUT/stats.json last.

    Returns:
        What differs from the previous selection; None if there was none or it was not finished.

    Raises:
        ValueError: a scored shard is damaged; the message says which, and what to do.
    """
    changed = _begin_difference(layout, thresholds)
    layout.stats.delete()
    names, run = layout.finished(), read_run(layout)
    assert run is not None, "a finished shard comes from a run"
    keys = ((name, file_of(layout, name, read_manifest(layout.manifest(name)), "keys")) for name in names)
    repeated = duplicates.find(
        [(name, file.local) for name, file in keys if file and file.local], scratch=layout.scratch.path
    )
    total = Statistics()
    forget_tars(layout.root.path)
    for name in names:
        total.merge(_select_shard(layout, name, thresholds, repeated.of(name), run.world, changed))
    place_tars(layout.root.path)
    join_exports(out=layout.root.path, names=names)
    _remove_other_shards(layout, names)
    rows = _rows_by_shard(layout, names)
    counts = total.total()
    assert sum(rows.values()) == counts.rows, f"{sum(rows.values())} rows came in, {counts.rows} are accounted for"
    annotations = annotations_of(run.ingests, rows)
    if changed:
        changed.paragraphs = changed.paragraphs[0], counts.paragraphs_removed
    _write_results(layout, thresholds, run, total, annotations, changed)
    return changed


def _write_results(
    layout: OutputLayout, thresholds: Thresholds, run: RunInfo, total: Statistics, annotations: Annotations,
    changed: Difference | None,
) -> None:  # fmt: skip
    """Write the card, the report and, last, OUT/stats.json."""
    write_atomically(layout.card, card(total, thresholds, run, annotations))
    gallery = collect_gallery(total, thresholds, read=lambda name: read_scored(layout, name))
    page = render(total, thresholds, run, gallery, annotations, changed.rows() if changed else ())
    write_atomically(layout.report, page)
    counts = total.total()
    stats = {
        "annotations": annotations.to_json(),
        "shards": len(layout.finished()),
        "rows_in": counts.rows,
        "kept": counts.kept,
        "rejected": dict(rejections(counts)),
        "quarantined": dict(sorted(counts.quarantined.items())),
        "reward_before": counts.reward_raw.value,
        "reward_after": counts.reward.value,
        "reward_kept_before": counts.reward_raw_kept.value,
        "reward_kept_after": counts.reward_kept.value,
        "another_world": run.world.warning(total.of_another_world()) if run.world else "",
        "thresholds": dataclasses.asdict(thresholds),
        "changed": changed.to_json() if changed else None,
        "statistics": total.to_json(),
    }
    write_stats(layout, stats)


def _begin_difference(layout: OutputLayout, thresholds: Thresholds) -> Difference | None:
    """Compare thresholds with those of the last finished selection; its shards are compared later, one by one."""
    if not layout.stats.exists():
        return None
    stats, now = read_stats(layout), dataclasses.asdict(thresholds)
    with undamaged(layout.stats, "delete it and select again"):
        before = stats["thresholds"]
        moved = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
        datasets = stats["statistics"]["datasets"].values()
        return Difference(thresholds=moved, paragraphs=(sum(counts["paragraphs_removed"] for counts in datasets), 0))


def _remove_other_shards(layout: OutputLayout, names: Sequence[str]) -> None:
    """Remove what earlier selections wrote for shards that are no longer there."""
    for place_of, suffix in ((layout.parquet, ".parquet"), (layout.verdicts, ".jsonl")):
        for name in {*place_of("").parent.names(suffix)} - {*names}:
            place_of(name).delete()


def is_current(layout: OutputLayout, thresholds: Thresholds) -> bool:
    """Whether the last selection is finished, used these thresholds, and covers all shards."""
    if not layout.stats.exists():
        return False
    stats = read_stats(layout)
    return stats["thresholds"] == dataclasses.asdict(thresholds) and stats["shards"] == len(layout.finished())


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
        ("reward", f"{_number(stats['reward_before'])} -> {_number(stats['reward_after'])}"),
        ("reward of kept", f"{_number(stats['reward_kept_before'])} -> {_number(stats['reward_kept_after'])}"),
    ]
    if run is not None and run.rows_per_second:
        rows.append(("samples/s", f"{run.rows_per_second:.2f} ({run.seconds['wall']:.0f} s, start of Ray included)"))
    rows.append(("report", str(layout.report)))
    print(console.table(rows, f"{layout.root}"))
    for line in filter(None, (stats["another_world"], not_compared(total.tasks))):
        print(line)
    if examples := statistics.quarantine.get(commonest(total.quarantined)):
        folder = layout.root / "quarantine"
        print(f"quarantined, for example: {examples[0].detail[:200]} ({folder} has each row's detail)")


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


def _select_shard(
    layout: OutputLayout, name: str, thresholds: Thresholds, repeated: frozenset[bytes], world: World | None,
    changed: Difference | None,
) -> Statistics:  # fmt: skip
    """Select one shard, add to what has changed, and return its statistics, quarantined rows included."""
    manifest = read_manifest(layout.manifest(name))
    samples = read_scored(layout, name)
    selection = select_shard(samples, shard=name, thresholds=thresholds, duplicates=repeated, world=world)
    write_tars(selection.kept, out=layout.root.path, name=name)
    write_parquet(selection.kept, layout.parquet(name).path)
    if changed:
        changed.compare(_verdicts(layout, name), selection.records)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in selection.records)
    write_atomically(layout.verdicts(name), lines)
    export_shard(selection.kept, out=layout.root.path, name=name)
    keys = {record["key"] for record in selection.records}
    assert len(keys) == len(selection.records) == manifest.scored, f"{name}: each key must occur exactly once"
    selection.statistics.count_quarantined(read_quarantine(layout, name))
    return selection.statistics


def _verdicts(layout: OutputLayout, name: str) -> list[dict[str, Any]]:
    """Return the verdicts of the last selection on a shard; none if it did not cover the shard."""
    path = layout.verdicts(name)
    if not path.exists():
        return []
    with undamaged(path, "delete it and select again"):
        verdicts = [json.loads(line) for line in path.read_text().split("\n") if line]
        for verdict in verdicts:
            verdict["key"], verdict["keep"], verdict["reason"]  # a KeyError here names the file, later it could not
        return verdicts


def _rows_by_shard(layout: OutputLayout, names: Sequence[str]) -> Counter[Path]:
    """Count the rows of each input shard; replayed rows count with the shard they came from."""
    rows: Counter[Path] = Counter()
    for name in names:
        source = source_of(name)
        rows[Path(read_manifest(layout.manifest(source)).shard)] += read_manifest(layout.manifest(name)).rows_in
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def job(config: SelectConfig) -> None:
    """Run the job.

    Raises:
        ValueError: the folder holds no finished shard, or a damaged one.
        AllFailed: every row was quarantined.
    """
    layout = OutputLayout(root=config.out)
    if not layout.finished():
        raise ValueError(f"{config.out} holds no finished shard; give the --out of a polite-flamingo build")
    with exclusive(layout.root):
        layout.sweep()
        settle(layout)
        conclude(layout, select(layout, config.thresholds))


def thresholds_of_build(arguments: Sequence[str]) -> list[str]:
    """Return the build's thresholds as arguments: other models need other thresholds than the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", nargs="?")  # without a value: the job's own parser reports it
    out = parser.parse_known_args(list(arguments))[0].out
    file = OutputLayout(root=out).config if out else None
    if file is None or not file.exists():
        return []
    with undamaged(file, "restore it, or run the build again"):
        found = read_yaml(file)["thresholds"]
        return [f"--thresholds.{name}={json.dumps(value)}" for name, value in found.items()]


main = partial(console.run, "select", __doc__, SelectConfig, job, defaults=thresholds_of_build)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
