"""Train one stage: from a model and a mixture of shards to a model folder that every other job can load.

    polite-flamingo train --profile profiles/tiny.yaml --stage polite --data.pairs out/pairs/pairs --out out/polite
    polite-flamingo train --profile profiles/tiny.yaml --stage clever-2 --init out/clever-1/model \\
        --data.pf1m out/demo/pf1m --out out/clever-2
    polite-flamingo train --profile profiles/tiny.yaml --stage dpo --init out/clever-3/model \\
        --data.pairs out/pairs/pairs --out out/dpo

    OUT/model        the result: `--rewriter.flamingo.folder OUT/model`
    OUT/checkpoints  what the same command resumes from, whatever ended it
    OUT/loss.jsonl   training log, one line per update; OUT/tensorboard the same for TensorBoard
    OUT/inputs.json  the shards as they were at the start; if one has changed, the folder is refused
    OUT/stats.json   written last: the stage is done

The profile says what a stage does (`training/stages.py`). The loop (`training/loop.py`) does not depend on Ray.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from polite_flamingo.config import to_yaml
from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.hub import resolve
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.run_info import read_run, read_stats, write_stats
from ray_jobs import console, progress
from ray_jobs.cluster import running_ray
from ray_jobs.fingerprint import base_fingerprints, by_name, training_hash
from ray_jobs.resumable_job import ResumableJob, check_input
from training.data import Ingredient, find_shards
from training.stages import StageName, TrainingConfig
from training.workers_config import WorkersConfig

OUTPUTS = (
    "checkpoints", "model", "tensorboard", "ray_train", "loss.jsonl", "failures.jsonl", "run.json", "config.yaml",
    "stats.json", "inputs.json",
)  # fmt: skip
"""What a run leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training stage depends on.

    Attributes:
        stage: what is trained and how, see training.stages.
        data: the mixture by name: `--data.text out/text` for a folder of shards, or with options
            `--data.pf1m '{shards: out/pf1m, fraction: 0.1, response: rewritten}'`. Polite stages learn to rewrite pairs
            whatever protocol is given. dpo, rejection, steerlm and sft read what `polite-flamingo pair` made.
        out: the output folder or s3://, gs://, az:// address; on several machines, one that all of them reach.
        init: OUT/model of the previous stage, its address, or zoo:NAME; "" starts from training.base.
        training: the stages, and what they have in common.
        workers: number of training workers, and what each takes from a machine.
        fresh: delete what an earlier run left in `out` and start over.
    """

    stage: StageName
    data: dict[str, str | Ingredient]
    out: str
    training: TrainingConfig
    init: str = ""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    fresh: bool = False


def train(config: TrainConfig) -> None:
    """Run the stage, or what is left of it.

    Raises:
        ValueError: the mixture, the model, the output folder or the workers are wrong; the message says what to do.
        JobFailed: training stopped because the loss is NaN or infinite, the disk is full, or workers keep dying.
    """
    mixture, base = mixture_of(config), config.training.base
    start = FlamingoConfig(folder=trained(config.init)) if config.init else base
    shards = find_shards(mixture, print)
    refuse_foreign(path for _, path in shards)
    refuse_impossible(config, len(shards))
    config.training.stage(config.stage).refuse_start(opened(start))
    models = base_fingerprints(start)
    layout = OutputLayout(root=location(config.out).absolute())
    job = ResumableJob(
        layout=layout,
        identity=training_hash(config.training, config.stage, start, models, mixture, shards),
        models=models,
        config=to_yaml(replace(config, fresh=False)),
        outputs=OUTPUTS,
    )
    with job.locked(fresh=config.fresh):
        check_shards(layout, [path for _, path in shards])
        if layout.stats.exists():
            print(f"{layout.root} is finished; --fresh would train it again")
        else:
            with job.attempt():
                stats = run(config, start, mixture, layout.root, by_name(models))
            write_stats(layout, stats)
        print(summary(config.stage, read_stats(layout), layout.root))


def trained(init: str) -> str:
    """Return the folder or address of a trained model."""
    return resolve(init) if init.startswith("zoo:") else str(location(init).absolute())


def check_shards(layout: OutputLayout, shards: Sequence[Location]) -> None:
    """Raise `ValueError` if a shard has changed since the run began. Their names, order and sizes are in its hash."""
    file, begun = layout.root / "inputs.json", read_run(layout) is not None
    if begun and not file.exists():
        print(f"{layout.root} was made by an earlier version: whether its input has changed since cannot be checked")
    check_input(file, {f"{number} {path.name}": path for number, path in enumerate(shards)}, begun=begun)


def mixture_of(config: TrainConfig) -> dict[str, Ingredient]:
    """Return the mixture as the loop takes it: sorted by name, with absolute paths."""
    found = {}
    for name, given in sorted(config.data.items()):
        ingredient = Ingredient(shards=given) if isinstance(given, str) else given
        ingredient = replace(ingredient, shards=str(location(ingredient.shards).absolute()))
        if config.training.stage(config.stage).preference is not None and ingredient.protocol == "rewriting":
            raise ValueError(f"data {name!r}: stage {config.stage} learns pairs of answers; leave protocol out")
        if config.stage in ("polite", "polite-gen2"):
            ingredient = replace(ingredient, protocol="rewriting", response="rewritten")
        found[name] = ingredient
    return found


def refuse_impossible(config: TrainConfig, shards: int) -> None:
    """Raise `ValueError` for workers that could not do the stage, before anything is started."""
    workers, training = config.workers, config.training
    stage = training.stage(config.stage)
    groups = -(-shards // training.shards_a_group)
    if workers.count > groups:
        raise ValueError(
            f"{workers.count} workers for {groups} groups of shards ({shards} shards, training.shards_a_group "
            f"{training.shards_a_group}): some would have nothing to do; lower workers.count or training.shards_a_group"
        )
    if workers.count > stage.batch:
        raise ValueError(f"{workers.count} workers for a batch of {stage.batch} rows; lower workers.count")
    if workers.parallel == "fsdp" and workers.count > 1 and stage.optimizer == "muon":
        raise ValueError("the optimizer muon needs whole matrices, but fsdp divides them; set optimizer to adamw")
    if (training.device != "auto") and (training.device.startswith("cuda") != bool(workers.gpus)):
        raise ValueError(
            f"training.device is {training.device} and workers.gpus {workers.gpus}: a worker trains on its GPU if it "
            "has one; leave training.device at auto"
        )


def run(
    config: TrainConfig,
    start: FlamingoConfig,
    mixture: Mapping[str, Ingredient],
    out: Location,
    models: Mapping[str, str],
) -> dict[str, Any]:
    """Train on Ray and return the figures of the finished run. `models` has the fingerprints of what `start` names."""
    began = time.time()
    with running_ray(config.workers.needs()):
        from ray_jobs.pipeline import seen_by_all
        from training import log
        from training.ray_trainer import StageRun, TrainingStopped, failures, train

        with seen_by_all(out) as probe, training_progress() as show:
            job = StageRun(
                config=config.training, stage=config.stage, start=start, mixture=mixture, out=out,
                workers=config.workers, probe=probe, models=models,
            )  # fmt: skip
            try:
                totals = train(job, show)
            except TrainingStopped as error:
                raise console.JobFailed(str(error)) from error
        if totals.rows == 0:
            raise console.JobFailed(
                f"there was nothing to train on: every sample was left out ({left_out(totals.skipped)}); fix the "
                "mixture, then rerun with --fresh"
            )
        lines = log.read(out)
        return {
            **totals.to_json(),
            "updates": lines[-1]["step"] if lines else 0,
            "window": config.training.stage(config.stage).packing.window,
            "restarts": len(failures(out)),
            "metrics": {name: lines[-1][name] for name in sorted(log.METRICS) if lines and name in lines[-1]},
            "started": began,
        }


@contextmanager
def training_progress() -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Show a progress bar; yields a function that takes new lines of the training log.

    The time left is shown once a tenth of the stage is done.
    """
    bar = progress.bar(1.0, "{percentage:3.0f}%|{bar}| {elapsed}{postfix}", "loading models")
    seen: dict[str, Any] = {}

    def show(lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        first, last = lines[0], lines[-1]
        if not seen:
            bar.initial, bar.start_t = first["progress"], time.time()  # starting must not count in the time left
        elif first["step"] <= seen["step"]:
            new = next((line["step"] for line in lines if line["time"] > seen["time"]), last["step"] + 1)
            bar.write(f"a worker died; training resumes after update {new - 1}", file=sys.stderr)
        seen.update(last)
        if last["progress"] - bar.initial >= 0.1 * (1 - bar.initial):
            bar.bar_format = "{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
        bar.set_postfix_str(
            f"update {last['step']}, epoch {last['epoch']:.2f}, loss {last['loss']:.4f}, "
            f"lr {last['learning_rate']:.2e}, {last['tokens_per_second']:,.0f} tokens/s",
            refresh=False,
        )
        bar.update(last["progress"] - bar.n)

    try:
        yield show
    finally:
        bar.close()


def summary(stage: str, stats: Mapping[str, Any], out: Location) -> str:
    """Make the table at the end."""
    rows, tokens, seconds = stats["rows"], stats["tokens"], max(stats["seconds"], 1e-9)
    share = tokens / max(1, rows * stats["window"])
    losses = stats["first_loss"], stats["last_loss"]
    rewards = {name: value for name, value in stats.get("metrics", {}).items() if name.startswith("rewards/")}
    table = [
        ("updates", f"{stats['updates']:,}"),
        ("samples", f"{stats['samples']:,} in {rows:,} packed rows"),
        ("cut at the window", f"{stats['cut']:,}"),
        ("left out", left_out(stats["skipped"]) or "0"),
        ("images that did not decode", f"{stats['broken_images']:,}"),
        ("tokens", f"{tokens:,}, of them trained {stats['trained_tokens']:,}"),
        ("fill", f"{share:.1%} of the packed rows"),
        ("speed", f"{tokens / seconds:,.0f} tokens/s, {stats['trained_tokens'] / seconds:,.0f} trained"),
        ("loss", " → ".join("none" if loss is None else f"{loss:.4f}" for loss in losses)),
        *((name, f"{value:.4f} in the last update") for name, value in rewards.items()),
        ("restarts", f"{stats['restarts']:,}"),
        ("model", str(out / "model")),
    ]
    return console.table(table, f"stage {stage}")


def left_out(skipped: Mapping[str, int]) -> str:
    """List reasons with their counts."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items()))


main = partial(console.run, "train", __doc__, TrainConfig, train)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
