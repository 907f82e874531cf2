"""Results of a repetition of the paper that never happened: numbers drawn around means that are known."""

from __future__ import annotations

import random

from polite_flamingo.evaluation.judging import RAW, Judged
from polite_flamingo.evaluation.metrics import METRICS, TASK_METRICS
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.run_info import ModelInfo, RunInfo
from polite_flamingo.testbed.paper.results import ROLES, PaperResults, Rewrite, Seed
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.scene import random_scene
from polite_flamingo.testbed.study.results import Example, HeldOut, example_of

SETS = {
    "in": HeldOut(domain="in", task="vqa", title="questions"),
    "described": HeldOut(domain="in", task="captioning", title="captions"),
    "changes": HeldOut(domain="in", task="change_captioning", title="changes between two pictures"),
    "out": HeldOut(domain="out", task="vqa", title="questions of other kinds"),
    "text": HeldOut(domain="text", task="text", title="reading, knowledge and notes"),
}

ACCURACY = {"base": 0.2, "text_only": 0.3, "stage_1": 0.5, "raw": 0.84, "unfrozen": 0.85, "first_only": 0.3}
"""In domain; 0.8 where none is given. Out of domain it is 0.2 less."""
REWARD = {RAW: -2.0, "base": -3.0, "stage_1": 3.0, "stage_2": 1.0, "raw": -1.5, "text_only": 3.3}
"""3 where none is given."""


def example_results(seeds: int = 3, samples: int = 30, *, noise: float = 0.05, shift: float = 0.0) -> PaperResults:
    """Three seeds whose means differ by about `noise`; `shift` is added to the reward of Clever Flamingo."""
    roles = {role: f"model {role}" for role in ROLES}
    return PaperResults(
        run=RunInfo(
            title="The paper on a laptop", command="python -m ray_jobs.paper --profile profiles/tiny.yaml",
            started="2026-11-21T20:00:00+00:00", versions={"python": "3.11.9", "torch": "2.13.0"},
            models=(ModelInfo(role="NLI", name="zoo:nli", fingerprint="0123abcd"),), config="seeds: 3\n",
        ),
        minutes=41.5, hardware="2 cores, no GPU", speaker="rules, no language model", roles=roles, sets=SETS,
        seeds=tuple(_seed(number, samples, roles, noise, shift) for number in range(seeds)),
        examples=examples(), caveats=("The judge cannot count.",),
    )  # fmt: skip


def _seed(number: int, samples: int, roles: dict[str, str], noise: float, shift: float) -> Seed:
    rng = random.Random(f"seed {number}")
    tasks = [name for name in SETS for _ in range(samples)]
    scores = {}
    for contestant in (RAW, *roles.values()):
        role = contestant.removeprefix("model ")
        about = rng.gauss(0, noise)
        numbers: dict[str, list[float | None]] = {metric: [] for metric in ("right", *METRICS)}
        for name in tasks:
            held_out = SETS[name]
            right = ACCURACY.get(role, 0.8) - 0.2 * (held_out.domain == "out") + about
            polite = rng.gauss(REWARD.get(role, 3.0) + about + shift * (role == "clever"), 0.5)
            drawn = {"reward": polite, "accuracy": float(rng.random() < right), "rouge_l": 0.4, "sts": 0.5}
            drawn["right"] = float(rng.random() < right)
            for metric in numbers:
                known = metric == "right" or metric in TASK_METRICS[held_out.task]
                numbers[metric].append(round(drawn[metric], 4) if known else None)
        scores[contestant] = numbers
    judged = Judged(
        contestants=tuple(scores), keys=[f"{name}/{place}" for place, name in enumerate(tasks)], tasks=tasks,
        scores=scores, missing={name: {} for name in scores}, unscored={name: {} for name in scores},
    )  # fmt: skip
    rewrites = {
        "first": tuple(_rewrite(random.Random(f"{number} {key}"), key, 2.0, 0.12) for key in range(4 * samples)),
        "second": tuple(_rewrite(random.Random(f"{number} {key}"), key, 2.6, 0.0) for key in range(4 * samples)),
        "template": tuple(_rewrite(random.Random(f"{number} {key}"), key, 1.0, 0.0) for key in range(4 * samples)),
    }
    counts = {"rewriting pairs": 1200 + number, "PF-mini, kept": 1850 - number}
    return Seed(number=number, judged=judged, rewrites=rewrites, counts=counts)


def _rewrite(rng: random.Random, key: int, gain: float, unchanged: float) -> Rewrite:
    """The annotation's own reward is the same for both generations: they rewrite the same ones."""
    raw = rng.gauss(-2.0, 0.8)
    caption = key % 2 == 0
    return Rewrite(
        key=f"annotation/{key}", dataset="coco_captions" if caption else "aokvqa",
        task="captioning" if caption else "vqa_rationale", reward_raw=raw, reward=raw + rng.gauss(gain, 0.4),
        unchanged=rng.random() < unchanged, clip=rng.gauss(30.0, 2.0) if caption else None,
    )  # fmt: skip


def examples() -> tuple[Example, ...]:
    """One of each kind."""
    scene = random_scene(random.Random(0))
    sample = Sample(
        key="aokvqa/val/1", dataset="aokvqa", task="vqa",
        turns=(Turn(instruction="<image>What colour is it?", response="Answer: <b>red</b>"),),
        images=(Image(extension="png", data=encode(draw(scene), "png")),),
    )  # fmt: skip
    return (
        example_of(sample, "rewritten", {"first generation": "It is red.", "second generation": "The circle is red."}),
        example_of(sample, "answered", {"model direct": "The circle is red.", "model base": ""}),
    )
