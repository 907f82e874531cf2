"""Collect what the steps of `make paper` wrote into the results that its report shows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.sample import Sample
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.testbed.paper.results import (
    ROLES,
    Example,
    Generation,
    HeldOut,
    PaperResults,
    Seed,
    example_of,
    rewrite_of,
)
from polite_flamingo.testbed.shapes.evaluation_sets import SETS
from ray_jobs.paper_steps import read_answers, samples_of

GENERATIONS: dict[Generation, str] = {"first": "polite", "second": "polite_gen2"}
SHOWN = 2
"""Samples of each held-out set, and of each dataset of annotations, that the report shows, from the first seed."""

SPEAKERS = {
    "rules": "rules written for these scenes, no language model (the paper: Guanaco-33B)",
    "local": "a language model on this machine",
    "endpoint": "a language model behind an endpoint",
}
CAVEATS = (
    "The models have about five million weights and the scenes are synthetic: only directions can be compared with the "
    "paper.",
    "The judges are small too: zoo:nli and zoo:reward were trained on the same kind of scenes (see their cards), and "
    "the reward model prefers the wording of the good responses.",
    "All models start from one shipped base, so seeds differ in scenes, distortions, order and fresh weights, not in "
    "what the base has learnt.",
    "Out of domain means not seen in training on images: the shipped base has seen every kind of question, texts ask "
    "all of them, and one hard scene in 25 is as crowded as those of the crowded set.",
)


def collect(out: Path, seeds: Iterable[int], speaker: str, run: RunInfo) -> PaperResults:
    """Read every result under `out`."""
    first = out / "seed-0"
    held_out = samples_of(first / "data" / "evaluation")
    tasks = {sample.dataset: sample.task for sample in held_out}
    sets = {
        name: HeldOut(domain=domain, task=tasks[name], title=title)
        for name, (domain, title) in SETS.items()
        if name in tasks
    }
    return PaperResults(
        run=run,
        minutes=run.seconds["wall"] / 60,
        hardware=hardware(),
        speaker=SPEAKERS[speaker],
        roles={role: role for role in ROLES},
        sets=sets,
        seeds=tuple(_seed(out / f"seed-{seed}", seed) for seed in seeds),
        examples=(*_rewritten(first), *_answered(first, held_out)),
        caveats=CAVEATS,
    )


def _seed(home: Path, number: int) -> Seed:
    pairs, kept = _read(home / "pairs" / "stats.json"), _read(home / "pf1m" / "stats.json")
    return Seed(
        number=number,
        judged=Judged.from_json(_read(home / "judged.json")),
        rewrites={
            generation: tuple(map(rewrite_of, _read(home / "generations" / f"{name}.json")))
            for generation, name in GENERATIONS.items()
        },
        counts={
            "rewriting pairs": pairs["pairs"],
            "annotations": kept["rows_in"],
            "PF-mini, kept": kept["kept"],
            "PF-mini, rejected": sum(kept["rejected"].values()),
            "PF-mini, quarantined": sum(kept["quarantined"].values()),
        },
    )


def _rewritten(home: Path) -> list[Example]:
    """Pick annotations, each with the rewrites of both generations."""
    texts = {g: {row["key"]: row["rewritten"] for row in _read(home / "generations" / f"{name}.json")}
             for g, name in GENERATIONS.items()}  # fmt: skip
    there = [s for s in samples_of(home / "data" / "annotations") if all(s.key in found for found in texts.values())]
    return [
        example_of(sample, "rewritten", {f"{g} generation": found[sample.key] for g, found in texts.items()})
        for sample in _some(there)
    ]


def _answered(home: Path, held_out: list[Sample]) -> list[Example]:
    """Pick held-out questions, each with the answers of every model."""
    said = {role: read_answers(home, role) for role in ROLES}
    return [
        example_of(sample, "answered", {role: found.get(sample.key, "") for role, found in said.items()})
        for sample in _some(held_out)
    ]


def _some(samples: list[Sample]) -> list[Sample]:
    """Pick the same number of samples from each dataset."""
    by_dataset: dict[str, list[Sample]] = {}
    for sample in samples:
        by_dataset.setdefault(sample.dataset, []).append(sample)
    return [sample for found in by_dataset.values() for sample in found[:SHOWN]]


def hardware() -> str:
    """Name this machine's processor and its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
