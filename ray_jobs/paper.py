"""The paper on a laptop: every claim about training, measured on Shapes with tiny models, several seeds.

    python -m ray_jobs.paper --profile profiles/tiny.yaml --out out/paper

For each seed: draws conversations and annotations, distorts the first and trains Polite Flamingo on them, lets it
rewrite the second (`build_pf1m`), tunes Clever Flamingo in its three stages and all ablations beside it, trains the
second generation, and asks every model about unseen scenes. Then OUT/report.html sets what was measured beside what the
paper says. Interrupted, it goes on where it stopped.

Trainings of one process each run side by side on Ray, as many as there are cores: they are too small to be divided.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.filters.judge import Thresholds
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig, RewriterConfig
from polite_flamingo.storage.ledger import OutputLayout, exclusive
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.storage.shards import write_atomically
from polite_flamingo.testbed.paper.page import to_markdown, write_paper
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.cluster import PoolsConfig, running_ray
from ray_jobs.fingerprint import model_fingerprints
from ray_jobs.paper_results import collect
from ray_jobs.paper_steps import (
    Sizes,
    answer,
    draw_data,
    judge_answers,
    make_pairs,
    plan,
    rewrite_again,
    train,
)
from ray_jobs.run_info import Work, add_work, begin_run, read_run, write_run
from training.stages import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """What is repeated, and how large.

    Attributes:
        out: everything goes here.
        seeds: how many times, each with its own scenes, distortions and fresh weights.
        sizes: how much of everything.
        rewriter: how models write; which ones is the plan's business.
        scoring: the models that score and judge.
        thresholds: of PF-mini.
        pools: of build_pf1m.
        distortion: of good responses.
        training: of all stages.
        gpus: that a training takes.
        fresh: delete what an earlier run left and start over.
    """

    out: str = "out/paper"
    seeds: int = 3
    sizes: Sizes = field(default_factory=Sizes)
    rewriter: RewriterConfig
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    training: TrainingConfig
    gpus: float = 0.0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where nothing would be repeated."""
        if self.seeds < 1:
            raise ValueError("seeds must be at least 1; an interval needs two")


def paper(config: PaperConfig) -> None:
    """Do the whole of it, or what is left."""
    out = Path(config.out)
    layout = OutputLayout(root=out)
    with exclusive(out):
        clock = _Clock(layout, begin_or_resume(config, layout))
        with clock.running(), running_ray(config.pools), _steps(config, clock) as steps:
            _rewriters(config, out, steps)
            for seed in range(config.seeds):
                build(_building(config, _seed(out, seed)))
                steps.tell(f"seed {seed}: PF-mini")
            _tuning(config, out, steps)
            _judging(config, out, steps)
        run = clock.note()
        results = collect(out, range(config.seeds), config.distortion.speaker, run)
        write_atomically(out / "results.json", json.dumps(results.to_json()))
        write_atomically(out / "results.md", to_markdown(results))
        write_paper(results, out / "report.html")
    print(f"report  {out / 'report.html'} ({run.seconds['wall'] / 60:.0f} minutes in all)")


def _seed(out: Path, seed: int) -> Path:
    return (out / f"seed-{seed}").absolute()


def begin_or_resume(config: PaperConfig, layout: OutputLayout) -> RunInfo:
    """The run that `layout` holds, or a new one, written; more seeds may be added to a run.

    Raises:
        ValueError: the folder holds the work of another configuration or of other models.
    """
    resolved = console.to_yaml(replace(config, fresh=False, out="", seeds=1))
    models = base_models(config)
    identity = hashlib.sha256(f"{resolved}{json.dumps(models)}".encode()).hexdigest()[:12]
    if config.fresh:
        for folder in layout.root.glob("seed-*"):
            shutil.rmtree(folder)
        layout.run.unlink(missing_ok=True)
    run = read_run(layout)
    if run is None:
        run = begin_run(identity, models, resolved)
        write_atomically(layout.config, resolved)
        write_run(layout, run)
    elif run.config_hash != identity:
        raise ValueError(
            f"{layout.root} holds the work of another configuration or of other models (its own: {layout.config}); "
            "give another --out, or --fresh"
        )
    return run


class _Clock:
    """Minutes of all attempts: noted in OUT/run.json with each step, so that an attempt that is killed counts too."""

    def __init__(self, layout: OutputLayout, run: RunInfo):
        """Starts now. Args: run: as the attempts before have left it."""
        self._layout, self._before, self._started = layout, run, time.monotonic()

    def note(self) -> RunInfo:
        """The run as it is now, also on disk."""
        run = add_work(self._before, Work(), time.monotonic() - self._started)
        write_run(self._layout, run)
        return run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Note the time also of what fails or is interrupted."""
        try:
            yield
        finally:
            self.note()


def base_models(config: PaperConfig) -> dict[str, dict[str, str]]:
    """What the trained models start from, and the judges."""
    return model_fingerprints(replace(config.rewriter, flamingo=config.training.base), config.scoring)


class _Steps:
    """Work under way on Ray, in the order of a graph, with a bar."""

    def __init__(self, bar: Any, clock: _Clock, gpus: float):
        import ray

        self._bar, self._clock, self._ray = bar, clock, ray
        self._remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_work)
        self._open: dict[Any, str] = {}

    def start(self, title: str, needs: list[Any], function: Callable[..., None], *arguments: Any) -> Any:
        """Begin a step once those it needs are done; something that others may need."""
        done = self._remote.remote(function, arguments, *needs)
        self._open[done] = title
        return done

    def finish(self) -> None:
        """Wait for all that was begun; the first failure ends the job with its reason."""
        while self._open:
            [first], _ = self._ray.wait(list(self._open), num_returns=1)
            title = self._open.pop(first)
            try:
                self._ray.get(first)
            except self._ray.exceptions.RayTaskError as error:
                raise console.JobFailed(f"{title}: {error.cause}") from error
            self.tell(title)

    def tell(self, title: str) -> None:
        """A step is done."""
        self._clock.note()
        self._bar.set_postfix_str(title)
        self._bar.update()


def _work(function: Callable[..., None], arguments: tuple[Any, ...], *needs: None) -> None:
    """A step in a worker, on one thread: as many of them as there are cores run side by side. Ray waits for `needs`."""
    import torch

    torch.set_num_threads(1)
    function(*arguments)


@contextmanager
def _steps(config: PaperConfig, clock: _Clock) -> Iterator[_Steps]:
    from tqdm import tqdm

    runs = plan(Path(), config.training)
    asked = sum(run.answers for run in runs) + 1
    # data and pairs, PF-mini, what the rewriters write again, the verdict; then the runs and the answers
    total = config.seeds * (2 + 1 + 2 + 1 + len(runs) + asked)
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {elapsed}{postfix}"
    with tqdm(total=total, dynamic_ncols=True, bar_format=form) as bar:
        yield _Steps(bar, clock, config.gpus)


def _rewriters(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """Data, pairs, and the first generation of the rewriter."""
    for seed in range(config.seeds):
        home, name = _seed(out, seed), f"seed {seed}"
        drawn = steps.start(f"{name}: data", [], draw_data, home / "data", config.sizes, seed)
        pairs = steps.start(f"{name}: pairs", [drawn], make_pairs, home, config.distortion, seed)
        polite = next(run for run in plan(home, config.training) if run.name == "polite")
        steps.start(f"{name}: polite", [pairs], train, home, polite, config.training, seed)
    steps.finish()


def _building(config: PaperConfig, home: Path) -> BuildConfig:
    """PF-mini by the very job that builds PF-1M."""
    return BuildConfig(
        input=str(home / "data" / "annotations"),
        out=str(home / "pf1m"),
        rewriter=replace(config.rewriter, flamingo=FlamingoConfig(folder=str(home / "runs" / "polite" / "model"))),
        scoring=config.scoring,
        thresholds=config.thresholds,
        pools=config.pools,
    )


def _tuning(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """Everything that starts from PF-mini, with the answers of each model that is asked."""
    for seed in range(config.seeds):
        home = _seed(out, seed)
        done: dict[str, list[Any]] = {"": [], "polite": []}
        for run in plan(home, config.training):
            title = f"seed {seed}: {run.name}"
            if run.name not in done:
                done[run.name] = [steps.start(title, done[run.start], train, home, run, config.training, seed)]
            if run.answers:
                steps.start(f"{title} answers", done[run.name], answer, home, run.name, config.rewriter)
            if run.stage in ("polite", "polite-gen2"):
                again = (home, run.name, config.sizes, config.rewriter, config.scoring)
                steps.start(f"{title} rewrites", done[run.name], rewrite_again, *again)
        base = replace(config.rewriter, flamingo=config.training.base)
        steps.start(f"seed {seed}: base answers", [], answer, home, "base", base)
    steps.finish()


def _judging(config: PaperConfig, out: Path, steps: _Steps) -> None:
    """The numbers of all answers."""
    names = ["base", *(run.name for run in plan(Path(), config.training) if run.answers)]
    for seed in range(config.seeds):
        steps.start(f"seed {seed}: verdict", [], judge_answers, _seed(out, seed), names, config.scoring)
    steps.finish()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    return console.run("paper", "Repeat the paper on drawn scenes, on this machine.", PaperConfig, paper, arguments)


if __name__ == "__main__":
    sys.exit(main())
