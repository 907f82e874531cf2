"""Collect what the steps of `polite-flamingo align` wrote into the results that its report shows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.testbed.alignment.results import ROLES, AlignmentResults, Seed
from polite_flamingo.testbed.study.results import Example, example_of
from ray_jobs.align_steps import read_answers
from ray_jobs.paper_results import SETS, hardware, some
from ray_jobs.paper_steps import samples_of

CAVEATS = (
    "The models have about five million weights and the scenes are synthetic: only directions can be compared with the "
    "paper, whose judge was Gemini.",
    "The judge is a rule that knows the drawn scene and cannot err. Flipped labels show what a worse one would do.",
    "All seeds start from the shipped Clever Flamingo; they differ in prompts, sampled answers and order.",
    "The language model is the same base tuned on as many texts as Clever Flamingo has seen, and nothing else.",
    "Length-controlled rates take seeds as fixed; all other intervals take seeds and questions as random.",
)


def collect(out: Path, seeds: Iterable[int], run: RunInfo) -> AlignmentResults:
    """Read every result under `out`."""
    found = tuple(_seed(out / f"seed-{seed}", seed) for seed in seeds)
    asked = {*found[0].judged.tasks}
    return AlignmentResults(
        run=run,
        minutes=run.seconds["wall"] / 60,
        hardware=hardware(),
        roles={role: role for role in ROLES},
        sets={name: held_out for name, held_out in SETS.items() if name in asked},
        seeds=found,
        examples=tuple(_examples(out)),
        caveats=CAVEATS,
    )


def _seed(home: Path, number: int) -> Seed:
    rated, pairs = _read(home / "rated.json"), _read(home / "pairs.json")
    counts = {**rated, **{f"pairs, {name.replace('_', ' ')}": one["pairs"] for name, one in pairs.items()}}
    usual = pairs["all"]
    counts |= {
        "prompts without a pair: too close": usual["too_close"],
        "prompts without a pair: failed": usual["failed"],
        "chosen is the longer side, %": round(100 * usual["chosen_longer"], 1),
    }
    return Seed(number=number, judged=Judged.from_json(_read(home / "judged.json")), counts=counts)


def _examples(out: Path) -> Iterable[Example]:
    """Yield questions with the answers of every model, from the first seed."""
    said = {role: read_answers(out / "seed-0", role) for role in ROLES}
    for sample in some(samples_of(out / "shared" / "exam")):
        texts = {str(role): found[sample.key] for role, found in said.items() if sample.key in found}
        yield example_of(sample, "answered", texts)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
