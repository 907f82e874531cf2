"""Keep what is known of a run in OUT/run.json, so that a later selection can still say where its samples come from."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from polite_flamingo.ledger import OutputLayout, read_manifest
from polite_flamingo.run_info import ModelInfo, RunInfo, installed_versions
from polite_flamingo.shards import write_atomically


def begin_run(config_hash: str, models: Mapping[str, Mapping[str, str]], config: str) -> RunInfo:
    """A run that starts now.

    Args:
        config_hash: see `fingerprint.config_hash`.
        models: role -> name and fingerprint.
        config: resolved, as YAML.
    """
    main = sys.modules["__main__"].__spec__
    program = ["python", "-m", main.name] if main else ["python", sys.argv[0]]
    return RunInfo(
        title="Polite Flamingo on Ray",
        command=shlex.join([*program, *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config_hash=config_hash,
        models=tuple(ModelInfo(role=role, **model) for role, model in models.items()),
        versions=installed_versions(),
        config=config,
    )


def add_time(layout: OutputLayout, run: RunInfo, wall_seconds: float) -> RunInfo:
    """Add the time of one attempt: a run that was interrupted has several."""
    wall = run.seconds.get("wall", 0.0) + wall_seconds
    manifests = [read_manifest(layout.manifest(name)) for name in layout.finished()]
    stages = {stage: sum(m.seconds.get(stage, 0.0) for m in manifests) for stage in ("rewriting", "scoring")}
    rows = sum(manifest.rows_in for manifest in manifests)
    seconds = {name: round(value, 1) for name, value in {**stages, "wall": wall}.items()}
    return replace(run, seconds=seconds, rows_per_second=round(rows / wall, 2) if wall else 0.0)


def write_run(layout: OutputLayout, run: RunInfo) -> None:
    """Write OUT/run.json."""
    write_atomically(layout.run, json.dumps(run.to_json(), indent=1, ensure_ascii=False) + "\n")


def read_run(layout: OutputLayout) -> RunInfo | None:
    """Read OUT/run.json; None before the first run."""
    if not layout.run.exists():
        return None
    return RunInfo.from_json(json.loads(layout.run.read_text(encoding="utf-8")))
