"""Repeat the paper's experiments on generated scenes with tiny models and three seeds, in half an hour on 2 cores.

    polite-flamingo paper --profile profiles/tiny.yaml --out out/paper

For each seed: samples conversations and annotations, distorts the former and trains Polite Flamingo on them, has it
rewrite the latter (`build_pf1m`), trains Clever Flamingo in its three stages with all ablations beside it, trains the
second generation, and asks every model about unseen scenes. Then OUT/report.html compares the measurements with what
the paper says. After an interruption the same command resumes.

Training runs have one process each and run side by side on Ray, one per core: they are too small to be divided.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from ray_jobs import console, progress
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.cluster import running_ray
from ray_jobs.fingerprint import model_fingerprints
from ray_jobs.paper_results import collect
from ray_jobs.paper_steps import (
    Sizes,
    Training,
    answer,
    judge_answers,
    make_data,
    make_pairs,
    model_of,
    plan,
    rewrite_sample,
    train,
)
from ray_jobs.resumable_job import Attempt, ResumableJob
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
        fresh: delete what an earlier run left and start over.
    """

    out: str = "out/paper"
    seeds: int = 3
    sizes: Sizes = field(default_factory=Sizes)
    rewriter: RewriterSection
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    training: TrainingConfig
    gpus: float = 0.0
    only: tuple[str, ...] = ()
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if there are no seeds, or a run is unknown."""
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
        with running_ray(config.pools.needs()), _steps(config, attempt) as steps:
            _rewriters(config, out, steps)
            for seed in range(config.seeds):
                build(_building(config, _seed(out, seed)))
                steps.done(f"seed {seed}: PF-mini")
            _tuning(config, out, steps)
            if not config.only:
                _judging(config, out, steps)
        run = attempt.note()
        if config.only:
            print(f"models  {out}/seed-*/runs/*/model ({run.seconds['wall'] / 60:.0f} minutes in all)")
            return
        results = collect(out, range(config.seeds), config.distortion.speaker, run)
        write_atomically(out / "results.json", json.dumps(results.to_json()))
        write_atomically(out / "results.md", to_markdown(results))
        write_paper(results, out / "report.html")
    print(f"report  {out / 'report.html'} ({run.seconds['wall'] / 60:.0f} minutes in all)")


def _seed(out: Path, seed: int) -> Path:
    return (out / f"seed-{seed}").absolute()


def job_of(config: PaperConfig) -> ResumableJob:
    """Return the job; its hash leaves out the number of seeds, as seeds may be added to a folder."""
    resolved = to_yaml(replace(config, fresh=False, out="", seeds=1))
    models = model_fingerprints(
        replace(config.rewriter, kind="flamingo", flamingo=config.training.base), config.scoring
    )
    return ResumableJob(
        layout=OutputLayout(root=config.out),
        identity=hashlib.sha256(f"{resolved}{json.dumps(models)}".encode()).hexdigest()[:12],
        models=models,
        config=resolved,
        outputs=("seed-*", "run.json"),
    )


class _Steps:
    """Steps under way on Ray, each started once those it needs are done, with a progress bar."""

    def __init__(self, bar: Any, attempt: Attempt, gpus: float):
        import ray

        self._bar, self._attempt, self._ray = bar, attempt, ray
        self._remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_work)
        self._open: dict[Any, str] = {}

    def start(self, title: str, needs: list[Any], result: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        """Begin a step once those it needs are done; returns a handle that other steps may need.

        Args:
            title: name of the step, for messages.
            needs: handles of other steps.
            result: the file for what `function` returns; if it is there, the step is done already.
            function: of `paper_steps.py`.
            arguments: arguments for `function`.
        """
        done = self._remote.remote(result, function, arguments, *needs)
        self._open[done] = title
        return done

    def finish(self) -> None:
        """Wait for every step; the first failure ends the job with its reason."""
        while self._open:
            [first], _ = self._ray.wait(list(self._open), num_returns=1)
            title = self._open.pop(first)
            try:
                self._ray.get(first)
            except self._ray.exceptions.RayTaskError as error:
                raise console.JobFailed(f"{title}: {error.cause}") from error
            self.done(title)

    def done(self, title: str) -> None:
        """Count a step, and note the time so far, so that an attempt that is killed counts too."""
        self._attempt.note()
        self._bar.set_postfix_str(title)
        self._bar.update()


def _work(result: Path, function: Callable[..., Any], arguments: tuple[Any, ...], *needs: None) -> None:
    """Run a step in a worker on one thread, as each core has its own step. Ray waits for `needs`."""
    if not result.exists():
        import torch

        torch.set_num_threads(1)
        write_atomically(result, json.dumps(function(*arguments)))


@contextmanager
def _steps(config: PaperConfig, attempt: Attempt) -> Iterator[_Steps]:
    runs = config.runs(Path())
    asked = 0 if config.only else sum(run.answers for run in runs) + 1
    # data and pairs, PF-mini, both generations' rewrites and the verdict; then the runs and the answers
    total = config.seeds * (3 + (0 if config.only else 3) + len(runs) + asked)
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {elapsed}{postfix}"
    with progress.bar(total, form) as bar:
        yield _Steps(bar, attempt, config.gpus)


def _rewriters(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """Make data, pairs, and the first generation of the rewriter."""
    for seed in range(config.seeds):
        home, name = _seed(out, seed), f"seed {seed}"
        complete, stats = home / "data" / "complete.json", home / "pairs" / "stats.json"
        data = steps.start(f"{name}: data", [], complete, make_data, home / "data", config.sizes, seed)
        pairs = steps.start(f"{name}: pairs", [data], stats, make_pairs, home, config.distortion, seed)
        polite = next(run for run in config.runs(home) if run.name == "polite")
        _train(config, home, polite, f"{name}: polite", [pairs], seed, steps)
    steps.finish()


def _train(
    config: PaperConfig, home: Path, run: Training, title: str, needs: list[Any], seed: int, steps: _Steps
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


def _tuning(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """Train everything that starts from PF-mini, and let the models that are compared answer."""
    for seed in range(config.seeds):
        home = _seed(out, seed)
        done: dict[str, list[Any]] = {"": [], "polite": []}
        for run in config.runs(home):
            title = f"seed {seed}: {run.name}"
            if run.name not in done:
                done[run.name] = [_train(config, home, run, title, done[run.start], seed, steps)]
            if config.only:
                continue
            needs = done[run.name]
            model = RewriterConfig(flamingo=model_of(home, run.name), **decoding(config.rewriter))
            if run.answers:
                steps.start(f"{title} answers", needs, home / "answers" / f"{run.name}.json", answer, home, model)
            if run.stage in ("polite", "polite-gen2"):
                result = home / "generations" / f"{run.name}.json"
                steps.start(
                    f"{title} rewrites", needs, result, rewrite_sample, home, config.sizes, model, config.scoring
                )
        if config.only:
            continue
        base = RewriterConfig(flamingo=config.training.base, **decoding(config.rewriter))
        steps.start(f"seed {seed}: base answers", [], home / "answers" / "base.json", answer, home, base)
    steps.finish()


def _judging(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """Judge all answers."""
    names = ["base", *(run.name for run in plan(Path(), config.training) if run.answers)]
    for seed in range(config.seeds):
        home = _seed(out, seed)
        steps.start(f"seed {seed}: verdict", [], home / "judged.json", judge_answers, home, names, config.scoring)
    steps.finish()


main = partial(console.run, "paper", __doc__, PaperConfig, paper)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
