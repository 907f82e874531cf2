"""How an output was made: what a reader needs to reproduce it. The job fills it in; card and report print it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.storage.ledger import OutputLayout, undamaged
from polite_flamingo.storage.provenance import IngestCounts
from polite_flamingo.world import World

PACKAGES = ("torch", "transformers", "open_clip_torch", "open_flamingo", "peft", "sentence-transformers", "ray")

NOTHING_REWRITTEN = (
    "Nothing was rewritten: the annotations were scored as they are. Checks that compare a text with its annotation "
    "(unchanged, STS, NLI) do not apply."
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model of a run: what it does, its name in the profile, and a fingerprint of its files."""

    role: str
    name: str
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """One run.

    Attributes:
        title: what the output is, in a few words.
        command: the command as typed.
        started: start time, ISO 8601.
        rows: number of rows in the shards that its attempts finished; killed attempts are not counted.
        seconds: time that the same attempts spent, by stage ("rewriting", "scoring", …).
        rows_per_second: speed of the whole job; 0 if that is meaningless (a selection only).
        config_hash: digest of models, prompts and generation settings; equal hashes may share an output folder.
        models: the models, in the order of use.
        versions: versions of Python and packages.
        config: the resolved configuration, as YAML or JSON text.
        world: the small world that some of its models are limited to; None if there is none.
        ingests: the ingests that made its input shards, if their results are beside the shards.
        rewriter: kind of the rewriter (`rewriters.config.Kind`).
        about: what a reader must know of its input and models, a paragraph each; shown at the top.
    """

    title: str
    command: str
    started: str
    rows: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    rows_per_second: float = 0.0
    config_hash: str = ""
    models: tuple[ModelInfo, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    world: World | None = None
    ingests: tuple[IngestCounts, ...] = ()
    rewriter: str = "flamingo"
    about: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a reader must know of a run without a rewriter; "" for others."""
        return NOTHING_REWRITTEN if self.rewriter == "none" else ""

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return {**dataclasses.asdict(self), "world": self.world.to_json() if self.world else None}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RunInfo:
        """Read what `to_json` wrote."""
        models = tuple(ModelInfo(**model) for model in record["models"])
        world = World.from_json(record["world"]) if record.get("world") else None
        ingests = tuple(IngestCounts(**ingest) for ingest in record.get("ingests", ()))
        about = tuple(record.get("about", ()))
        return RunInfo(**{**record, "models": models, "world": world, "ingests": ingests, "about": about})


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of installed `PACKAGES`; nothing is imported."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_run(layout: OutputLayout, run: RunInfo) -> None:
    """Write OUT/run.json."""
    layout.run.put(json.dumps(run.to_json(), indent=1, ensure_ascii=False) + "\n")


def read_run(layout: OutputLayout) -> RunInfo | None:
    """Read OUT/run.json; None before the first run. Raises `ValueError` if it is damaged."""
    if not layout.run.exists():
        return None
    with undamaged(layout.run, "restore it from a copy; it says which models made what is there"):
        return RunInfo.from_json(json.loads(layout.run.read_text()))


def write_stats(layout: OutputLayout, stats: Mapping[str, Any]) -> None:
    """Write OUT/stats.json, the figures of a finished job."""
    layout.stats.put(json.dumps(stats, indent=1, ensure_ascii=False) + "\n")


def read_stats(layout: OutputLayout) -> dict[str, Any]:
    """Read OUT/stats.json. Raises `ValueError` if it is damaged."""
    with undamaged(layout.stats, "delete it and run the same command again"):
        stats = json.loads(layout.stats.read_text())
        if not isinstance(stats, dict) or not stats:
            raise TypeError("no figures by name")
        return stats
