"""What is known of the run that made an output folder: OUT/run.json, for the report and for later selections."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from polite_flamingo.ledger import OutputLayout
from polite_flamingo.shards import write_atomically

_PACKAGES = ("polite-flamingo-on-ray", "ray", "torch", "transformers", "open_flamingo", "open_clip_torch", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where an output folder comes from.

    Attributes:
        command: as typed.
        started: UTC, ISO 8601.
        seconds: spent on rewriting and scoring, over all resumptions.
        config_hash: see `fingerprint.config_hash`.
        models: role -> name and fingerprint.
        versions: of the packages that decide results.
        config: resolved, as YAML.
    """

    command: str
    started: str
    seconds: float = 0.0
    config_hash: str
    models: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str = ""

    @staticmethod
    def begin(config_hash: str, models: Mapping[str, Mapping[str, str]]) -> Run:
        """A run that starts now."""
        return Run(
            command=shlex.join(["python", "-m", *_module_and_arguments()]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            config_hash=config_hash,
            models=models,
            versions={name: _version(name) for name in _PACKAGES},
        )


def write_run(layout: OutputLayout, run: Run) -> None:
    """Write OUT/run.json."""
    write_atomically(layout.run, json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False) + "\n")


def read_run(layout: OutputLayout) -> Run | None:
    """Read OUT/run.json; None before the first run."""
    if not layout.run.exists():
        return None
    return Run(**json.loads(layout.run.read_text(encoding="utf-8")))


def _module_and_arguments() -> list[str]:
    main = sys.modules["__main__"].__spec__
    return [main.name if main else sys.argv[0], *sys.argv[1:]]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
