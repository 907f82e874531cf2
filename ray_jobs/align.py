"""Repeat the paper on preference alignment on generated scenes, with tiny models and three seeds, in half an hour.

    polite-flamingo align --profile profiles/tiny.yaml --out out/align

For each seed: Clever Flamingo answers new questions several times, an exact rule rates the answers, and the same
ratings give preference pairs and the sets of the other ways to align. Then DPO, rejection sampling, SteerLM and plain
tuning are trained beside each other, and DPO again with 25, 50 and 75 % of the labels flipped, on 25, 50 and 75 % of
the pairs, and on pairs by a reward model that sees no picture. Every model answers the same unseen questions, with
pictures and without. OUT/report.html says what follows for each of the paper's claims. After an interruption the same
command resumes; --seeds 5 adds two to a folder that has three.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.config import to_yaml
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.sampling import SamplingSection
from polite_flamingo.rewriters.config import RewriterSection, decoding
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.testbed.alignment.page import to_markdown, write_alignment
from polite_flamingo.testbed.alignment.results import Role
from polite_flamingo.testbed.shapes.exam import Part
from ray_jobs import console
from ray_jobs.align_results import collect
from ray_jobs.align_steps import (
    PLAN,
    Sizes,
    Tuning,
    answer,
    judge_answers,
    language_model,
    make_exam,
    make_pairs,
    make_texts,
    model_of,
    sample_and_rate,
    tune,
    tune_language,
)
from ray_jobs.cluster import running_ray
from ray_jobs.fingerprint import model_fingerprints
from ray_jobs.resumable_job import ResumableJob
from ray_jobs.study import Steps, study_steps
from training.stages import TrainingConfig

EVERYTHING: tuple[Part, ...] = ("in", "out", "text", "described")


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How the paper on preference alignment is repeated.

    Attributes:
        out: the output folder.
        seeds: number of repetitions, each with its own prompts, sampled answers, pairs and fresh weights.
        sizes: number of samples of each kind.
        sampling: the model that alignment starts from, and how it answers.
        judge: the rule, and the reward model beside it.
        rewriter: how models decode in the exam.
        training: the training stages; `base` is the language model's.
        gpus: GPUs per step.
        fresh: delete what an earlier run left and start over.
    """

    out: str = "out/align"
    seeds: int = 3
    sizes: Sizes = field(default_factory=Sizes)
    sampling: SamplingSection
    judge: JudgeSection
    rewriter: RewriterSection
    training: TrainingConfig
    gpus: float = 0.0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for no seeds, or for a start model or judge that cannot be used here."""
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1; an interval needs two")
        if self.sampling.kind != "flamingo":
            raise ValueError("sampling.kind must be flamingo: the start model is trained further")
        if not self.judge.rule:
            raise ValueError("judge.rule must name the rule that knows the drawn scenes")


def align(config: AlignConfig) -> None:
    """Run the job, or what is left of it.

    Raises:
        ValueError: the folder holds the work of another configuration or of other models.
        JobFailed: a step failed.
    """
    out, job = Path(config.out), job_of(config)
    with job.locked(fresh=config.fresh), job.attempt() as attempt:
        with running_ray(PoolsConfig().needs()), study_steps(number_of_steps(config), attempt, config.gpus) as steps:
            _shared(config, out, steps)
            for seed in range(config.seeds):
                _seed(config, (out / f"seed-{seed}").absolute(), seed, steps)
            steps.finish()
        run = attempt.note()
        results = collect(out, range(config.seeds), run)
        write_atomically(out / "results.json", json.dumps(results.to_json()))
        write_atomically(out / "results.md", to_markdown(results))
        write_alignment(results, out / "report.html")
    print(f"report  {out / 'report.html'} ({config.seeds} seeds, {run.seconds['wall'] / 60:.0f} minutes in all)")


def job_of(config: AlignConfig) -> ResumableJob:
    """Return the job; its hash leaves out the number of seeds, as seeds may be added to a folder."""
    resolved = to_yaml(replace(config, fresh=False, out="", seeds=1))
    rewriter = replace(config.rewriter, kind="flamingo", flamingo=config.sampling.flamingo)
    models = model_fingerprints(rewriter, ScoringConfig(sts=None, nli=None, clip=None, reward=config.judge.reward))
    return ResumableJob(
        layout=OutputLayout(root=config.out),
        identity=hashlib.sha256(f"{resolved}{json.dumps(models)}".encode()).hexdigest()[:12],
        models=models,
        config=resolved,
        outputs=("seed-*", "shared", "run.json"),
    )


def number_of_steps(config: AlignConfig) -> int:
    """Return the number of steps of the whole study."""
    answers = sum(len(run.asked_as) for run in PLAN)
    return 6 + config.seeds * (2 + len(PLAN) + answers + 1)


def _shared(config: AlignConfig, out: Path, steps: Steps) -> None:
    """Make what every seed shares: the questions, and what the start model and the language model answer."""
    shared = (out / "shared").absolute()
    exam = steps.start("questions", [], shared / "exam.json", make_exam, shared / "exam", config.sizes)
    assert config.sampling.flamingo is not None, "checked above"
    start = RewriterConfig(flamingo=config.sampling.flamingo, **decoding(config.rewriter))
    _answers(steps, "start", [exam], shared / "start.json", shared, EVERYTHING, start)
    texts = steps.start("texts", [], shared / "texts.json", make_texts, shared, config.sizes)
    first = steps.start(
        "language, first half", [texts], shared / "language-1.json",
        tune_language, shared, "clever-1", "first", "", config.training,
    )  # fmt: skip
    second = steps.start(
        "language, second half", [first], shared / "language-2.json",
        tune_language, shared, "clever-3", "second", "first", config.training,
    )  # fmt: skip
    language = RewriterConfig(flamingo=language_model(shared, "second"), **decoding(config.rewriter))
    _answers(steps, "language", [exam, second], shared / "language.json", shared, ("text",), language)
    steps.finish()


def _answers(
    steps: Steps, title: str, needs: list[Any], result: Path, shared: Path, parts: tuple[Part, ...],
    model: RewriterConfig, wanted: Any = None,
) -> Any:  # fmt: skip
    return steps.start(f"{title} answers", needs, result, answer, shared / "exam", parts, wanted or {}, model)


def _seed(config: AlignConfig, home: Path, seed: int, steps: Steps) -> None:
    """Start all steps of a seed; Ray orders them, so that the next seed's begin where a core is free."""
    name, shared = f"seed {seed}", home.parent / "shared"
    start = config.sampling.flamingo
    assert start is not None, "checked above"
    rated = steps.start(
        f"{name}: sampled and rated", [], home / "rated.json",
        sample_and_rate, home, config.sampling, config.judge, config.sizes, seed,
    )  # fmt: skip
    paired = steps.start(f"{name}: pairs", [rated], home / "pairs.json", make_pairs, home, seed)
    answered = []
    for run in PLAN:
        done = _tuned(config, home, run, paired, seed, steps)
        model = RewriterConfig(flamingo=model_of(home, run.role), **decoding(config.rewriter))
        for role, wanted in run.asked_as.items():
            result = home / "answers" / f"{role}.json"
            answered.append(_answers(steps, f"{name}: {role}", [done], result, shared, EVERYTHING, model, wanted))
    roles: tuple[Role, ...] = ("start", "language", *(role for run in PLAN for role in run.asked_as))
    judged = home / "judged.json"
    steps.start(f"{name}: verdict", answered, judged, judge_answers, home, roles, config.judge, config.sizes)


def _tuned(config: AlignConfig, home: Path, run: Tuning, paired: Any, seed: int, steps: Steps) -> Any:
    tally, start = home / "runs" / run.role / "tally.json", config.sampling.flamingo
    return steps.start(
        f"seed {home.name.removeprefix('seed-')}: {run.role}", [paired], tally,
        tune, home, run, config.training, start, seed,
    )  # fmt: skip


main: Callable[..., int] = partial(console.run, "align", __doc__, AlignConfig, align)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
