"""Repeat the paper's experiments on generated scenes with tiny models and five seeds, in one to two hours on 2 cores.

    polite-flamingo paper --profile profiles/tiny.yaml --out out/paper

For each seed: samples conversations and annotations, distorts the former and trains Polite Flamingo on them, has it
rewrite the latter (`build_pf1m`), trains Clever Flamingo in its three stages with all ablations beside it, trains the
second generation, and asks every model the same questions about unseen scenes. Then OUT/report.html says what follows
for each of the paper's claims. After an interruption the same command resumes. More seeds make intervals narrower:
--seeds 8 adds three to a folder that has five.

Training runs have one process each and run side by side on Ray, one per core: they are too small to be divided.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.config import to_yaml
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.rewriters.config import RewriterSection, decoding
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import write_atomically
from polite_flamingo.testbed.paper.page import to_markdown, write_paper
from polite_flamingo.testbed.paper.results import ROLES
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.cluster import running_ray
from ray_jobs.fingerprint import model_fingerprints
from ray_jobs.paper_results import collect
from ray_jobs.paper_steps import (
    Sizes,
    Training,
    answer,
    fill_templates,
    judge_answers,
    make_annotations,
    make_data,
    make_exam,
    make_pairs,
    make_variants,
    model_of,
    plan,
    rewrite_annotations,
    train,
)
from ray_jobs.resumable_job import Attempt, ResumableJob
from ray_jobs.study import Steps, study_steps
from training.stages import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """How the paper is repeated.

    Attributes:
        out: the output folder.
        seeds: number of repetitions, each with its own scenes, distortions and fresh weights.
        sizes: number of samples of each kind.
        rewriter: how models decode; the plan says which models.
        scoring: the models that score and judge.
        thresholds: what PF-mini keeps.
        pools: actors of build_pf1m.
        distortion: how good responses are distorted.
        training: the training stages.
        gpus: GPUs per training run.
        only: names of training runs; no others are trained but those they start from, and nothing is compared.
        minutes: begin no further seed that would end after this many minutes, once there are two; 0 sets no limit.
        fresh: delete what an earlier run left and start over.
    """

    out: str = "out/paper"
    seeds: int = 5
    sizes: Sizes = field(default_factory=Sizes)
    rewriter: RewriterSection
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    training: TrainingConfig
    gpus: float = 0.0
    only: tuple[str, ...] = ()
    minutes: float = 0.0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for no seeds, or for a training run that does not exist."""
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1; an interval needs two")
        names = [run.name for run in plan(Path(), self.training)]
        if unknown := sorted({*self.only} - {*names}):
            raise ValueError(f"only: no training run is called {', '.join(unknown)}; there are {', '.join(names)}")

    def runs(self, seed_folder: Path) -> list[Training]:
        """Return the training runs of a seed: all of the plan, or `only` and what they start from."""
        runs = plan(seed_folder, self.training)
        needed = {*self.only, "polite"}
        for run in reversed(runs):
            needed |= {run.start} if run.name in needed else set()
        return [run for run in runs if not self.only or run.name in needed]


def paper(config: PaperConfig) -> None:
    """Run the job, or what is left of it.

    Raises:
        ValueError: the folder holds the work of another configuration or of other models.
        JobFailed: a step failed.
    """
    out, job = Path(config.out), job_of(config)
    with job.locked(fresh=config.fresh), job.attempt() as attempt:
        with running_ray(config.pools.needs()), study_steps(_number_of_steps(config), attempt, config.gpus) as steps:
            seeds = _repeat(config, out, steps, attempt)
        run = attempt.note()
        if config.only:
            print(f"models  {out}/seed-*/runs/*/model ({run.seconds['wall'] / 60:.0f} minutes in all)")
            return
        results = collect(out, range(seeds), config.distortion.speaker, run)
        write_atomically(out / "results.json", json.dumps(results.to_json()))
        write_atomically(out / "results.md", to_markdown(results))
        write_paper(results, out / "report.html")
    print(f"report  {out / 'report.html'} ({seeds} seeds, {run.seconds['wall'] / 60:.0f} minutes in all)")


def _repeat(config: PaperConfig, out: Path, steps: Steps, attempt: Attempt) -> int:
    """Run one seed after the other, and return how many: all of them, or those that `minutes` leave time for.

    While a seed's models are tuned, the next one's rewriter is trained, so that no core waits.
    """
    if not config.only:
        _shared(config, out, steps)
    first = 0.0
    _rewriter(config, _seed(out, 0), 0, steps)
    for seed in range(config.seeds):
        steps.finish()
        home = _seed(out, seed)
        build(_building(config, home))
        steps.done(f"seed {seed}: PF-mini")
        now = attempt.note().seconds["wall"]
        first = first or now
        later = now + 2 * (now - first) / max(1, seed)  # the rest of this seed and the next one take two at most
        _tuning(config, home, seed, steps)
        if seed + 1 == config.seeds or (seed > 0 and 0 < config.minutes < later / 60):
            steps.finish()
            return seed + 1
        _rewriter(config, _seed(out, seed + 1), seed + 1, steps)
    raise AssertionError("there is at least one seed")


def _seed(out: Path, seed: int) -> Path:
    return (out / f"seed-{seed}").absolute()


def job_of(config: PaperConfig) -> ResumableJob:
    """Return the job; its hash leaves out the number of seeds and minutes, as seeds may be added to a folder."""
    resolved = to_yaml(replace(config, fresh=False, out="", seeds=1, minutes=0.0))
    models = model_fingerprints(
        replace(config.rewriter, kind="flamingo", flamingo=config.training.base), config.scoring
    )
    return ResumableJob(
        layout=OutputLayout(root=config.out),
        identity=hashlib.sha256(f"{resolved}{json.dumps(models)}".encode()).hexdigest()[:12],
        models=models,
        config=resolved,
        outputs=("seed-*", "shared", "run.json"),
    )


def _number_of_steps(config: PaperConfig) -> int:
    each = 3 + len(config.runs(Path()))  # data, pairs, PF-mini and the runs
    if not config.only:
        each += 1 + 2 + (len(ROLES) - 1) + 1  # variants, both generations' rewrites, answers, verdict
    return config.seeds * each + (0 if config.only else 4)


def _shared(config: PaperConfig, out: Path, steps: Steps) -> None:
    """Make what every seed shares: the questions, the annotations to rewrite, and what no training changes."""
    shared = (out / "shared").absolute()
    asked = shared / "exam"
    exam = steps.start("questions", [], shared / "exam.json", make_exam, asked, config.sizes)
    base = RewriterConfig(flamingo=config.training.base, **decoding(config.rewriter))
    steps.start("base answers", [exam], shared / "base.json", answer, asked, "base", base)
    folder = shared / "annotations"
    made = steps.start("annotations", [], shared / "annotations.json", make_annotations, folder, config.sizes)
    steps.start("templates", [made], shared / "template.json", fill_templates, folder, config.scoring)
    steps.finish()


def _rewriter(config: PaperConfig, home: Path, seed: int, steps: Steps) -> None:
    """Make data, pairs, and the first generation of the rewriter."""
    name = f"seed {seed}"
    complete, stats = home / "data" / "complete.json", home / "pairs" / "stats.json"
    data = steps.start(f"{name}: data", [], complete, make_data, home / "data", config.sizes, seed)
    pairs = steps.start(f"{name}: pairs", [data], stats, make_pairs, home, config.distortion, seed)
    polite = next(run for run in config.runs(home) if run.name == "polite")
    _train(config, home, polite, f"{name}: polite", [pairs], seed, steps)


def _train(
    config: PaperConfig, home: Path, run: Training, title: str, needs: list[Any], seed: int, steps: Steps
) -> Any:
    tally = home / "runs" / run.name / "tally.json"
    return steps.start(title, needs, tally, train, home, run, config.training, seed)


def _building(config: PaperConfig, home: Path) -> BuildConfig:
    """Configure PF-mini, for the same job that builds PF-1M."""
    return BuildConfig(
        input=str(home / "data" / "annotations"),
        out=str(home / "pf1m"),
        rewriter=replace(config.rewriter, kind="flamingo", flamingo=model_of(home, "polite")),
        scoring=config.scoring,
        thresholds=config.thresholds,
        pools=config.pools,
    )


def _tuning(config: PaperConfig, home: Path, seed: int, steps: Steps) -> None:
    """Train everything that starts from PF-mini, let the models that are compared answer, and judge the answers."""
    if config.only:
        done: dict[str, list[Any]] = {"": [], "polite": []}
    else:
        varied = steps.start(f"seed {seed}: variants", [], home / "variants" / "complete.json", make_variants, home)
        done = {"": [varied], "polite": []}
    shared, answers = home.parent / "shared", []
    for run in config.runs(home):
        title = f"seed {seed}: {run.name}"
        if run.name not in done:
            done[run.name] = [_train(config, home, run, title, done[run.start], seed, steps)]
        if config.only:
            continue
        needs = done[run.name]
        model = RewriterConfig(flamingo=model_of(home, run.name), **decoding(config.rewriter))
        for role in run.roles:
            result = home / "answers" / f"{role}.json"
            asked = (shared / "exam", role, model)
            answers.append(steps.start(f"seed {seed}: {role} answers", needs, result, answer, *asked))
        if run.stage in ("polite", "polite-gen2"):
            result, folder = home / "generations" / f"{run.name}.json", shared / "annotations"
            steps.start(f"{title} rewrites", needs, result, rewrite_annotations, folder, model, config.scoring)
    if not config.only:
        judged = home / "judged.json"
        steps.start(f"seed {seed}: verdict", answers, judged, judge_answers, home, config.sizes, config.scoring)


main = partial(console.run, "paper", __doc__, PaperConfig, paper)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
