"""Keep what is known of a run in OUT/run.json, so that a later selection can still say where its samples come from."""

from __future__ import annotations

import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.provenance import ingests_of
from polite_flamingo.storage.run_info import ModelInfo, RunInfo, installed_versions
from polite_flamingo.storage.shards import write_atomically


def begin_run(config_hash: str, models: Mapping[str, Mapping[str, str]], config: str) -> RunInfo:
    """A run that starts now.

    Args:
        config_hash: see `fingerprint.config_hash`.
        models: role -> name and fingerprint.
        config: resolved, as YAML.
    """
    main = sys.modules["__main__"].__spec__
    program = ["python", "-m", main.name] if main else [Path(sys.argv[0]).name]
    return RunInfo(
        title="Polite Flamingo on Ray",
        command=shlex.join([*program, *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config_hash=config_hash,
        models=tuple(ModelInfo(role=role, **model) for role, model in models.items()),
        versions=installed_versions(),
        config=config,
    )


@dataclass(kw_only=True)
class Work:
    """What one attempt at a job has done. Summed as shards are finished: reading a million manifests takes a minute."""

    rows: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def add_work(run: RunInfo, work: Work, wall_seconds: float) -> RunInfo:
    """Add an attempt: a run has several where it was interrupted, or where shards were added.

    An attempt that was killed counts neither with its rows nor with its time, but as far as its job has noted them.
    """
    found = {**work.seconds, "wall": wall_seconds}
    seconds = {name: round(run.seconds.get(name, 0.0) + found.get(name, 0.0), 6) for name in {**run.seconds, **found}}
    rows = run.rows + work.rows
    rate = round(rows / seconds["wall"], 2) if seconds["wall"] else 0.0
    return replace(run, rows=rows, seconds=seconds, rows_per_second=rate)


def add_ingests(run: RunInfo, shards: Iterable[Path]) -> RunInfo:
    """Note the ingests that made these shards, beside those of shards of earlier attempts.

    Raises:
        ValueError: the result of one cannot be read.
    """
    known = {ingest.where: ingest for ingest in (*run.ingests, *ingests_of(shards))}
    return replace(run, ingests=tuple(known.values()))


def write_run(layout: OutputLayout, run: RunInfo) -> None:
    """Write OUT/run.json."""
    write_atomically(layout.run, json.dumps(run.to_json(), indent=1, ensure_ascii=False) + "\n")


def read_run(layout: OutputLayout) -> RunInfo | None:
    """Read OUT/run.json; None before the first run."""
    if not layout.run.exists():
        return None
    return RunInfo.from_json(json.loads(layout.run.read_text(encoding="utf-8")))
