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
    Generation,
    PaperResults,
    Seed,
    rewrite_of,
)
from polite_flamingo.testbed.study.results import Example, HeldOut, example_of
from ray_jobs.paper_steps import read_answers, samples_of

GENERATIONS: dict[Generation, str] = {
    "first": "generations/polite.json", "second": "generations/polite_gen2.json", "template": "../shared/template.json",
}  # fmt: skip
"""Where each generation's rewrites are, from the folder of a seed."""

SETS: dict[str, HeldOut] = {
    "in": HeldOut(domain="in", task="vqa", title="questions of the kinds that tuning shows; one in eight asks why"),
    "described": HeldOut(domain="in", task="captioning", title="descriptions"),
    "changes": HeldOut(domain="in", task="change_captioning", title="changes between two pictures"),
    "out": HeldOut(
        domain="out", task="vqa", title="questions of kinds that tuning leaves out, and scenes of five or six things"
    ),
    "text": HeldOut(domain="text", task="text", title="reading a text, knowledge of shapes, notes put politely"),
}
"""The parts of the exam (`shapes.exam`)."""

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
    "Out of domain means not seen in tuning on images: the shipped base has seen every kind of question and scenes of "
    "up to six things, and texts ask all kinds.",
    "Coarse pictures have 64 instead of 96 pixels and are enlarged for the same tower, which is not the paper's change "
    "of the tower's own resolution.",
)


def collect(out: Path, seeds: Iterable[int], speaker: str, run: RunInfo) -> PaperResults:
    """Read every result under `out`."""
    first = out / "seed-0"
    asked = samples_of(out / "shared" / "exam")
    return PaperResults(
        run=run,
        minutes=run.seconds["wall"] / 60,
        hardware=hardware(),
        speaker=SPEAKERS[speaker],
        roles={role: role for role in ROLES},
        sets=SETS,
        seeds=tuple(_seed(out / f"seed-{seed}", seed) for seed in seeds),
        examples=(*_rewritten(first), *_answered(first, asked)),
        caveats=CAVEATS,
    )


def _seed(home: Path, number: int) -> Seed:
    pairs, kept = _read(home / "pairs" / "stats.json"), _read(home / "pf1m" / "stats.json")
    return Seed(
        number=number,
        judged=Judged.from_json(_read(home / "judged.json")),
        rewrites={generation: tuple(map(rewrite_of, _read(home / file))) for generation, file in GENERATIONS.items()},
        counts={
            "rewriting pairs": pairs["pairs"],
            "annotations": kept["rows_in"],
            "PF-mini, kept": kept["kept"],
            "PF-mini, rejected": sum(kept["rejected"].values()),
            "PF-mini, quarantined": sum(kept["quarantined"].values()),
        },
    )


def _rewritten(home: Path) -> list[Example]:
    """Pick annotations, each with the rewrites of both generations and the template's."""
    names = {"first": "first generation", "second": "second generation", "template": "by template"}
    texts = {
        names[generation]: {row["key"]: row["rewritten"] for row in _read(home / file)}
        for generation, file in GENERATIONS.items()
    }
    every = samples_of(home.parent / "shared" / "annotations")
    there = [sample for sample in every if all(sample.key in found for found in texts.values())]
    return [
        example_of(sample, "rewritten", {name: found[sample.key] for name, found in texts.items()})
        for sample in some(there)
    ]


def _answered(home: Path, held_out: list[Sample]) -> list[Example]:
    """Pick held-out questions, each with the answers of every model."""
    said = {role: read_answers(home, role) for role in ROLES}
    return [
        example_of(sample, "answered", {r: found[sample.key] for r, found in said.items() if sample.key in found})
        for sample in some(held_out)
    ]


def some(samples: list[Sample]) -> list[Sample]:
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
