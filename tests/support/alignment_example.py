"""Results of a repetition of the paper on alignment that never happened: numbers drawn around means that are known."""

from __future__ import annotations

import random
from collections.abc import Mapping

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.storage.run_info import ModelInfo, RunInfo
from polite_flamingo.testbed.alignment.results import METRICS, ROLES, AlignmentResults, Role, Seed
from polite_flamingo.testbed.study.results import HeldOut
from tests.support.paper_example import examples

SETS = {
    "in": HeldOut(domain="in", task="vqa", title="questions"),
    "described": HeldOut(domain="in", task="captioning", title="descriptions"),
    "out": HeldOut(domain="out", task="vqa", title="questions of other kinds"),
    "text": HeldOut(domain="text", task="text", title="reading, knowledge and notes"),
}
RIGHT: Mapping[Role, float] = {
    "language": 0.85, "start": 0.7, "dpo": 0.9, "rejection": 0.8, "sft": 0.6, "steerlm": 0.7, "flips_25": 0.8,
    "flips_50": 0.7, "flips_75": 0.4, "scale_25": 0.8, "by_reward": 0.7,
}  # fmt: skip
"""Share of right answers; 0.75 where none is given."""
WORDS: Mapping[Role, float] = {"start": 10, "sft": 5, "rejection": 12, "dpo": 15}


def example_results(
    seeds: int = 3, samples: int = 60, *, noise: float = 0.01, right: Mapping[Role, float] | None = None
) -> AlignmentResults:
    """Return results of seeds whose means differ by about `noise`."""
    shares = {**RIGHT, **(right or {})}
    return AlignmentResults(
        run=RunInfo(
            title="align", command="python -m ray_jobs.align --profile profiles/tiny.yaml",
            started="2026-11-30T20:00:00+00:00", versions={"python": "3.11.9"},
            models=(ModelInfo(role="reward", name="zoo:reward", fingerprint="0123abcd"),), config="seeds: 3\n",
        ),
        minutes=28.4, hardware="2 cores, no GPU", roles={role: role for role in ROLES}, sets=SETS,
        seeds=tuple(_seed(number, samples, noise, shares) for number in range(seeds)),
        examples=examples()[1:], caveats=("The judge is a rule.",),
    )  # fmt: skip


def _seed(number: int, samples: int, noise: float, shares: Mapping[Role, float]) -> Seed:
    rng = random.Random(f"seed {number}")
    tasks = [name for name in SETS for _ in range(samples)]
    scores = {}
    for role in ROLES:
        about = rng.gauss(0, noise)
        numbers: dict[str, list[float | None]] = {metric: [] for metric in METRICS}
        for name in tasks:
            right = float(rng.random() < shares.get(role, 0.75) + about)
            drawn = {
                "right": right, "score": 12.0 if right else 4.0, "words": max(1.0, rng.gauss(WORDS.get(role, 10), 1)),
                "reward": rng.gauss(6.0 if role == "by_reward" else 5.0, 0.5),
            }  # fmt: skip
            for metric, values in numbers.items():
                values.append(None if role == "language" and name != "text" else drawn[metric])
        scores[str(role)] = numbers
    judged = Judged(
        contestants=tuple(scores), keys=[f"{name}/{place}" for place, name in enumerate(tasks)], tasks=tasks,
        scores=scores, missing={name: {} for name in scores}, unscored={name: {} for name in scores},
    )  # fmt: skip
    return Seed(number=number, judged=judged, counts={"prompts": 300, "pairs, all": 180 + number})
