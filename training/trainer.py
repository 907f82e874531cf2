"""Ray Train around `stage.train_stage`: as many workers as asked for, restarted when they die.

A worker that dies takes its group of workers with it; Ray Train starts a new group, which goes on from the newest whole
checkpoint in OUT/checkpoints. Ray's own checkpoints and reports are not used: a checkpoint that was just reported may
not be registered when a worker dies, and a report waits for all workers and for the controller's next look at them.
What a run has to say it writes to OUT (`log.py`), where the driver reads it; so OUT must be a folder that all see.

Deaths are bounded by progress: so many in a row without a new checkpoint in between end the run. What no restart can
mend (a wrong input, a loss that is no number, a full disk) ends it at once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.storage.visibility import Probe, reason_in, refuse_other_models
from training import checkpoints
from training.data import Ingredient
from training.distributed import World
from training.log import Curve, Follower
from training.loop import LossNotFinite, Tally
from training.run_stage import train_stage
from training.stages import StageName, TrainingConfig
from training.streaming import RayStream
from training.workers import WorkersConfig

FAILURES = "failures.jsonl"
POLL_SECONDS = 0.5
START_SECONDS = 600.0
"""For a group of workers to start: importing torch takes a busy machine a while. Ray's default is a minute."""


class TrainingStopped(RuntimeError):
    """A run that cannot go on, for a reason that the message explains."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every worker is told.

    `out` is absolute, `probe` is what each must see there, `models` the fingerprints of what `start` names.
    """

    config: TrainingConfig
    stage: StageName
    start: FlamingoConfig
    mixture: Mapping[str, Ingredient]
    out: Path
    workers: WorkersConfig
    probe: Probe | None = None
    models: Mapping[str, str] = field(default_factory=dict)


def train(work: Work, on_updates: Callable[[list[dict[str, Any]]], None] = lambda lines: None) -> Tally:
    """Run a stage on the Ray that this process has joined, to its end.

    Args:
        work: what to do.
        on_updates: given the new lines of the run's curve, about twice a second.

    Raises:
        TrainingStopped: the run cannot go on; what it has done so far is kept.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_SECONDS))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative names stay what they are
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the causes reach the user in one line
    workers, storage = work.workers, work.out / "ray_train"
    shutil.rmtree(storage, ignore_errors=True)
    trainer = TorchTrainer(
        _in_worker,
        train_loop_config={"work": work},
        scaling_config=scaling(workers),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(
                max_failures=-1,  # `_Deaths` counts them
                controller_failure_limit=-1 if workers.autoscaling else workers.restarts,
            ),
            callbacks=[_Deaths(work.out, workers.restarts)],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
    )
    ended: list[ray.train.Result | BaseException] = []

    def fit() -> None:
        try:
            ended.append(trainer.fit())
        except BaseException as error:  # handed to the thread that waits
            ended.append(error)

    # In a thread of its own: in the main one, `fit` takes Ctrl-C for itself and ends the process with status 0.
    thread = threading.Thread(target=fit, daemon=True)
    follower = Follower(work.out)
    follower.new()  # of an earlier attempt
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        on_updates(follower.new())
    shutil.rmtree(storage, ignore_errors=True)
    result = ended[0]
    if isinstance(result, BaseException):
        raise _explained(result) from result
    return Tally.from_json(result.return_value)


def scaling(workers: WorkersConfig) -> ray.train.ScalingConfig:
    """What Ray Train is asked for."""
    return ray.train.ScalingConfig(
        num_workers=workers.count,
        use_gpu=workers.gpus > 0,
        resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.gpus else {}),
    )


def _in_worker(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole stage, in one of the workers."""
    work: Work = settings["work"]
    if work.probe is not None:
        work.probe.check()
    refuse_other_models(work.models)
    torch.set_num_threads(max(1, int(work.workers.cpus)))
    device = str(get_device()) if work.workers.gpus else "cpu"
    world = World.joined(device, work.workers.parallel)
    config = work.config

    def stream(model: FlamingoModel, world: World) -> RayStream:
        return RayStream(
            work.mixture, config.stage(work.stage).packing, model.tokenizer, model.attention,
            seed=config.seed, shards_a_group=config.shards_a_group, rank=world.rank, size=world.size,
            streaming=work.workers.streaming,
        )  # fmt: skip

    if world.rank != 0:
        return train_stage(config, work.stage, work.start, stream, work.out, world).to_json()
    found = checkpoints.newest(work.out / "checkpoints")
    curve = Curve(work.out, found.step if found else 0)
    try:
        return train_stage(config, work.stage, work.start, stream, work.out, world, curve.add).to_json()
    finally:
        curve.close()


class _Deaths(ray.train.UserCallback):
    """Lives in Ray Train's controller; lets workers die only so often, and ends the run where a restart is no use.

    An exception out of a callback is what ends a run: Ray Train itself tells no error from another.
    """

    def __init__(self, out: Path, restarts: int):
        self._out, self._restarts = out, restarts
        self._at, self._count = -1, 0

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        """Note the deaths; raise where there is no use in going on."""
        for error in worker_exceptions.values():
            if is_final(error):
                raise TrainingStopped(one_line(error))
        found = checkpoints.newest(self._out / "checkpoints")
        step = found.step if found else 0
        self._count = self._count + 1 if step == self._at else 1
        self._at = step
        # One worker's death breaks the others' connections to it: those errors are its consequence.
        reasons = sorted((one_line(error) for error in worker_exceptions.values()), key=lambda text: "died" not in text)
        with (self._out / FAILURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "step": step, "reason": reasons[0]}) + "\n")
        if self._count > self._restarts:
            raise TrainingStopped(
                f"workers died {self._count} times without a new checkpoint after update {step}; the last reason: "
                f"{reasons[0]}. The same command goes on from there; a lower micro_batch needs less memory"
            )


def is_final(error: BaseException) -> bool:
    """Whether another attempt would end alike: a mistake in the input, a loss that is no number, no room left."""
    if isinstance(error, ConnectionError | TimeoutError):  # kinds of OSError that say that a peer is gone
        return False
    if reason_in(str(error)) is not None:  # of a task that packs rows
        return True
    return isinstance(error, ValueError | OSError | LossNotFinite | torch.OutOfMemoryError | MemoryError)


def one_line(error: BaseException) -> str:
    """What a failed worker says, as a user can read it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "a worker ran out of memory; lower the stage's micro_batch, or set training.gradient_checkpointing"
    if reason := reason_in(str(error)):
        return reason
    if isinstance(error, ValueError | OSError | LossNotFinite):
        return " ".join(str(error).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("ActorDiedError" in line or "died" in line for line in lines):
        return "a worker died (killed, or out of memory)"
    return lines[-1] if lines else type(error).__name__


def _explained(error: BaseException) -> BaseException:
    """Ray Train's error as one that says what a user can do, where we know it."""
    inner = error.controller_failure if isinstance(error, ray.train.ControllerError) else error
    if isinstance(inner, TrainingStopped):
        return inner
    if is_final(inner):
        return TrainingStopped(one_line(inner))
    if isinstance(error, ray.train.ControllerError):
        return TrainingStopped(f"the workers could not start: {one_line(inner)}")
    return error
