"""Apply other thresholds to a finished build: a new selection in seconds, without a model and without Ray.

    polite-flamingo select --out out/demo --thresholds.sts 0.5
    polite-flamingo select --out out/demo --profile mine.yaml

Thresholds that are not given stay as the build had them. Reads OUT/scored and OUT/quarantine; writes OUT/pf1m,
OUT/parquet, OUT/verdicts, the exports, the card, the report and, last, OUT/stats.json. Checks that every row that came
in is kept, rejected or quarantined. Holds a few shards in memory at a time and never changes a score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.config import read_yaml
from polite_flamingo.cost import Cost, Prices, cost_of
from polite_flamingo.evaluation.agreement import Agreement
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.near_duplicates.find import NearDuplicates, Scores, with_scores
from polite_flamingo.report.gallery import collect_gallery
from polite_flamingo.report.selection import render
from polite_flamingo.selection.card import card
from polite_flamingo.selection.difference import Difference
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics, rejections
from polite_flamingo.storage import duplicates, tar_export
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.input_index import THREADS
from polite_flamingo.storage.json_exports import Records, export_images, exporting_records, forget_images, records_of
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import (
    OutputLayout,
    file_of,
    read_manifest,
    read_quarantine,
    read_scored,
    undamaged,
)
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.parquet_export import write_parquet
from polite_flamingo.storage.provenance import Annotations, annotations_of
from polite_flamingo.storage.run_info import RunInfo, read_run, read_stats, write_stats
from polite_flamingo.usage import Usage
from polite_flamingo.world import World
from ray_jobs import console
from ray_jobs.near_duplicates import Across, near_duplicates
from ray_jobs.replay_ledger import settle, source_of
from ray_jobs.selection_summary import conclude

SHARDS_AT_ONCE = 4
"""Shards that this process selects, and holds, at once."""

SHARDS_FOR_RAY = 100
"""Fewer shards are selected by this process even if Ray is there: its workers take seconds to import what they need."""


_Shard = tuple[str, frozenset[bytes], Scores]


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """A new selection from the output folder of a build.

    Attributes:
        out: the output folder of a build.
        thresholds: what is kept; those that are not given stay as the build had them (OUT/config.yaml).
        prices: of tokens and device time; likewise.
    """

    out: str
    thresholds: Thresholds = field(default_factory=Thresholds, metadata={"defaults_apply": False})
    prices: Prices = field(default_factory=Prices, metadata={"defaults_apply": False})


def select(layout: OutputLayout, thresholds: Thresholds, prices: Prices | None = None) -> Difference | None:
    """Make the selection and everything that depends on it, shard by shard; write OUT/stats.json last.

    Many shards are selected by tasks on the Ray that this process has joined, if any; else by threads of this process.

    Args:
        layout: the output folder.
        thresholds: what is kept.
        prices: of what the models consumed.

    Returns:
        What differs from the previous selection; None if there was none or it was not finished.

    Raises:
        ValueError: a scored shard is damaged; the message says which, and what to do.
    """
    changed = _begin_difference(layout, thresholds)
    layout.stats.delete()
    layout.sweep()
    names, run = layout.finished(), read_run(layout)
    if run is None:
        raise ValueError(f"{layout.run} is missing, which says how the shards were made; run the same build again")
    finished = _read_manifests(layout, names)
    layout.sweep_attempts(finished.files)
    work = partial(
        _select_shard, layout=layout.absolute(), thresholds=thresholds, world=run.world, compare=changed is not None
    )  # fmt: skip
    across = _across(len(names))
    total, numbers, expected = Statistics(), set[int](), tar_export.prefixes(finished.numbers)
    tar_export.forget_tars(layout.root)
    with _scratch(layout) as scratch:
        repeated = duplicates.find(finished.keys, scratch=scratch)
        near = near_duplicates(layout, finished.near, thresholds, across, scratch=scratch / "near")
        with exporting_records(layout.root) as add:
            shards = ((name, repeated.of(name), near.of(name)) for name in names)
            for shard in across(partial(work, tar_names=expected), shards):
                add(shard.records)
                total.merge(shard.statistics)
                numbers |= shard.numbers
                if changed and shard.changed:
                    changed.merge(shard.changed)
        wanted = tar_export.prefixes(numbers)
        if any(expected.get(number) != prefix for number, prefix in wanted.items()):
            tar_export.forget_tars(layout.root)
            again = partial(_write_tars, layout=layout.absolute(), thresholds=thresholds, tar_names=wanted)
            for _ in across(again, ((name, repeated.of(name), near.of(name)) for name in names)):
                pass
    _remove_other_shards(layout, names)
    counts = total.total()
    rows = finished.rows
    assert sum(rows.values()) == counts.rows, f"{sum(rows.values())} rows came in, {counts.rows} are accounted for"
    annotations = annotations_of(run.ingests, rows)
    if changed:
        changed.paragraphs = changed.paragraphs[0], counts.paragraphs_removed
    cost = cost_of(finished.usage, prices or Prices())
    _write_results(layout, thresholds, run, len(names), total, annotations, changed, near, cost)
    return changed


def _across(shards: int) -> Across:
    """Return what calls a function on each of so many shards."""
    if shards >= SHARDS_FOR_RAY and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        from ray_jobs.pipeline import tasks_in_order

        return tasks_in_order
    return partial(in_order, threads=SHARDS_AT_ONCE)


def _write_results(
    layout: OutputLayout, thresholds: Thresholds, run: RunInfo, shards: int, total: Statistics,
    annotations: Annotations, changed: Difference | None, near: NearDuplicates, cost: Cost,
) -> None:  # fmt: skip
    """Write the card, the report and, last, OUT/stats.json."""
    layout.card.put(card(total, thresholds, run, annotations, cost=cost))
    gallery = collect_gallery(
        total, thresholds, read=lambda name: with_scores(read_scored(layout, name), near.of(name))
    )
    differences = changed.rows() if changed else ()
    page = render(total, thresholds, run, gallery, annotations, differences, cost, _agreements(layout, run))
    layout.report.put(page)
    counts = total.total()
    stats = {
        "annotations": annotations.to_json(),
        "shards": shards,
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
        "cost": cost.to_json(counts.kept),
        "changed": changed.to_json() if changed else None,
        "statistics": total.to_json(),
    }
    write_stats(layout, stats)


def _agreements(layout: OutputLayout, run: RunInfo) -> list[Agreement]:
    """Return what `agreement` measured, if it was of these scores."""
    if not layout.agreement.exists():
        return []
    with undamaged(layout.agreement, "delete it and run polite-flamingo agreement again"):
        record = json.loads(layout.agreement.read_text())
        found = [Agreement.from_json(one) for one in record["agreements"]]
        return found if record["config_hash"] == run.config_hash else []


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
    """Remove what earlier selections wrote for shards that are no longer there, the verdicts last."""
    for name in {*layout.verdicts("").parent.names(".jsonl")} - {*names}:
        layout.parquet(name).delete()
        forget_images(layout.root, name)
        layout.verdicts(name).delete()
    (layout.root / "exports").delete_tree()  # of earlier versions


def is_current(layout: OutputLayout, thresholds: Thresholds, prices: Prices) -> bool:
    """Whether the last selection is finished, used these thresholds and prices, and covers all shards."""
    if not layout.stats.exists():
        return False
    stats = read_stats(layout)
    found = stats["thresholds"], stats.get("cost", {}).get("prices")
    asked = dataclasses.asdict(thresholds), dataclasses.asdict(prices)
    return found == asked and stats["shards"] == len(layout.finished())


@dataclass(frozen=True, kw_only=True)
class _Finished:
    """What the manifests of the finished shards say.

    Attributes:
        files: name -> paths of its files below the output folder; none for shards of earlier versions.
        keys: name, key file and number of keys of each shard; shards of earlier versions may have none.
        near: name, signature file and number of samples of each shard that has samples.
        rows: number of rows of each input shard; replayed rows count with the shard they came from.
        usage: what the models consumed for all of them.
        numbers: the numbers of images that scored samples have; empty in folders of earlier versions.
    """

    files: Mapping[str, Sequence[str]]
    keys: Sequence[tuple[str, Location, int]]
    near: Sequence[tuple[str, Location | None, int]]
    rows: Counter[Location]
    usage: Usage
    numbers: set[int]


def _read_manifests(layout: OutputLayout, names: Sequence[str]) -> _Finished:
    files: dict[str, list[str]] = {}
    keys: list[tuple[str, Location, int]] = []
    near: list[tuple[str, Location | None, int]] = []
    sources: dict[str, Location] = {}
    rows_of: Counter[str] = Counter()
    usage, numbers = Usage(), set[int]()
    manifests = in_order(lambda name: read_manifest(layout.manifest(name)), names, THREADS)
    for name, manifest in zip(names, manifests, strict=True):
        files[name] = [file.path for file in manifest.files.values()]
        if place := file_of(layout, name, manifest, "keys"):
            keys.append((name, place, manifest.scored))
        if manifest.scored:
            near.append((name, file_of(layout, name, manifest, "near"), manifest.scored))
        sources[name] = location(manifest.shard)
        rows_of[source_of(name)] += manifest.rows_in
        usage.update(manifest.usage)
        numbers |= {int(number) for number in manifest.stats.get("images", {})}
    rows: Counter[Location] = Counter()
    for name, count in rows_of.items():
        rows[sources[name]] += count
    return _Finished(files=files, keys=keys, near=near, rows=rows, usage=usage, numbers=numbers)


@contextmanager
def _scratch(layout: OutputLayout) -> Iterator[Path]:
    """A folder on this machine's disk for temporary files; that of the output, if it is on a disk."""
    if layout.root.local is None:
        with tempfile.TemporaryDirectory(prefix="select-") as folder:
            yield Path(folder)
        return
    try:
        yield layout.scratch.path
    finally:
        layout.scratch.delete_tree()


@dataclass(frozen=True, kw_only=True)
class _Selected:
    """What came of one shard.

    Attributes:
        statistics: its statistics, quarantined rows included.
        records: its records in the JSON exports.
        numbers: the numbers of images that its kept samples have.
        changed: what differs from the previous selection, if that was asked for.
    """

    statistics: Statistics
    records: Records
    numbers: frozenset[int]
    changed: Difference | None


def _select_shard(
    shard: _Shard, *, layout: OutputLayout, thresholds: Thresholds, world: World | None,
    tar_names: Mapping[int, str], compare: bool,
) -> _Selected:  # fmt: skip
    """Select one shard and write all that depends on it alone.

    Args:
        shard: its name, the digests of the keys it must reject because an earlier shard has them, and the
            similarities of its samples to earlier ones.
        layout: the output folder.
        thresholds: what is kept.
        world: the small world that the models are limited to.
        tar_names: prefixes of the tars' names.
        compare: whether to compare with the previous selection.
    """
    name, repeated, near = shard
    samples = with_scores(read_scored(layout, name), near)
    selection = select_shard(samples, shard=name, thresholds=thresholds, duplicates=repeated, world=world)
    keys = {record["key"] for record in selection.records}
    assert len(keys) == len(selection.records) == len(samples), f"{name}: each key must occur exactly once"
    selection.statistics.count_quarantined(read_quarantine(layout, name))
    changed = None
    if compare:
        changed = Difference()
        changed.compare(_verdicts(layout, name), selection.records)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in selection.records)
    layout.verdicts(name).put(lines)
    tar_export.write_tars(selection.kept, out=layout.root, name=name, names=tar_names)
    write_parquet(selection.kept, layout.parquet(name))
    export_images(selection.kept, out=layout.root, name=name)
    return _Selected(
        statistics=selection.statistics,
        records=records_of(selection.kept, name),
        numbers=frozenset(len(sample.images) for sample in selection.kept),
        changed=changed,
    )


def _write_tars(shard: _Shard, *, layout: OutputLayout, thresholds: Thresholds, tar_names: Mapping[int, str]) -> None:
    """Write the tars of one shard, once their names are known."""
    name, repeated, near = shard
    samples = with_scores(read_scored(layout, name), near)
    selection = select_shard(samples, shard=name, thresholds=thresholds, duplicates=repeated)
    tar_export.write_tars(selection.kept, out=layout.root, name=name, names=tar_names)


def _verdicts(layout: OutputLayout, name: str) -> list[dict[str, Any]]:
    """Return the verdicts of the last selection on a shard; none if it did not cover the shard."""
    file = layout.verdicts(name)
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return []
    with undamaged(file, "delete it and select again"):
        verdicts = [json.loads(line) for line in text.decode().split("\n") if line]
        for verdict in verdicts:
            verdict["key"], verdict["keep"], verdict["reason"]  # a KeyError here names the file, later it could not
        return verdicts


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
        settle(layout)
        conclude(layout, select(layout, config.thresholds, config.prices))


def settings_of_build(arguments: Sequence[str]) -> list[str]:
    """Return the build's thresholds and prices as arguments: other models need others than the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", nargs="?")  # without a value: the job's own parser reports it
    out = parser.parse_known_args(list(arguments))[0].out
    file = OutputLayout(root=out).config if out else None
    if file is None or not file.exists():
        return []
    with undamaged(file, "restore it, or run the build again"):
        content = read_yaml(file)
        found = {f"thresholds.{name}": value for name, value in content["thresholds"].items()}
        found |= {f"prices.{name}": value for name, value in content.get("prices", {}).items()}
        return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in found.items()]


main = partial(console.run, "select", __doc__, SelectConfig, job, defaults=settings_of_build)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
