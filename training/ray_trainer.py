"""Ray Train around `run_stage.train_stage`: starts the workers, restarts them when they die, and ends the run.

A worker that dies takes its group of workers with it; Ray Train starts a new group, which resumes from the newest whole
checkpoint in OUT/checkpoints. Ray's own checkpoints and reports are not used: a checkpoint that was just reported may
not be registered when a worker dies, and a report waits for all workers and for the controller's next poll. Rank 0
writes its log to OUT (`log.py`), and the driver reads it there; so OUT is a bucket, or a folder that all machines see.

Restarts are limited: too many in a row without a new checkpoint in between end the run. What no restart can fix (wrong
input, a loss that is not finite, a full disk) ends it at once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.hub import refuse_other_models
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.probe import Probe
from polite_flamingo.storage.visibility import reason_in
from training import checkpoints
from training.data import Ingredient
from training.distributed import Ranks
from training.log import LogFollower
from training.loop import LossNotFinite
from training.progress import Totals
from training.ray_stream import RayStream
from training.run_stage import train_stage
from training.stages import StageName, TrainingConfig
from training.workers_config import WorkersConfig

FAILURES = "failures.jsonl"
POLL_SECONDS = 0.5
START_SECONDS = 600.0
"""Time for a group of workers to start: importing torch is slow on a busy machine. Ray's default is a minute."""


class TrainingStopped(RuntimeError):
    """The run cannot continue; the message explains why."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What every worker needs to run a stage.

    Attributes:
        config, stage, start, mixture, out: as for `train_stage`; an `out` on a disk is absolute.
        workers: number of workers, and their share of the machine.
        probe: what each worker must find in `out`.
        models: fingerprints of the models that `start` names.
    """

    config: TrainingConfig
    stage: StageName
    start: FlamingoConfig
    mixture: Mapping[str, Ingredient]
    out: Location
    workers: WorkersConfig
    probe: Probe | None = None
    models: Mapping[str, str] = field(default_factory=dict)


def train(job: StageRun, on_updates: Callable[[list[dict[str, Any]]], None] = lambda lines: None) -> Totals:
    """Run a stage on the Ray that this process has joined, to its end.

    Args:
        job: what to run.
        on_updates: called with the new lines of the training log, about twice a second.

    Raises:
        TrainingStopped: the run cannot continue; its last checkpoint is kept.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_SECONDS))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # so that relative paths still mean the same
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the user gets the cause in one line
    workers = job.workers
    storage = tempfile.mkdtemp(prefix="ray_train-")  # Ray Train insists on one; its controller is on this machine
    trainer = TorchTrainer(
        _in_worker,
        train_loop_config={"job": job},
        scaling_config=scaling(workers),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=storage,
            failure_config=ray.train.FailureConfig(
                max_failures=-1,  # `_RestartLimit` counts them
                controller_failure_limit=-1 if workers.autoscaling else workers.restarts,
            ),
            callbacks=[_RestartLimit(job.out, workers.restarts)],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        ),
    )
    ended: list[ray.train.Result | BaseException] = []

    def fit() -> None:
        try:
            ended.append(trainer.fit())
        except BaseException as error:  # passed to the thread that waits
            ended.append(error)

    # In its own thread: in the main one, `fit` takes Ctrl-C for itself and ends the process with status 0.
    thread = threading.Thread(target=fit, daemon=True)
    follower = LogFollower(job.out)
    follower.new()  # skips the lines of an earlier attempt
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        on_updates(follower.new())
    shutil.rmtree(storage, ignore_errors=True)
    result = ended[0]
    if isinstance(result, BaseException):
        raise _explained(result) from result
    return Totals.from_json(result.return_value)


def scaling(workers: WorkersConfig) -> ray.train.ScalingConfig:
    """Return Ray Train's scaling configuration."""
    return ray.train.ScalingConfig(
        num_workers=workers.count,
        use_gpu=workers.gpus > 0,
        resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.gpus else {}),
    )


def _in_worker(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run the whole stage in one of the workers."""
    job: StageRun = settings["job"]
    if job.probe is not None:
        job.probe.check()
    refuse_other_models(job.models)
    torch.set_num_threads(max(1, int(job.workers.cpus)))
    device = str(get_device()) if job.workers.gpus else "cpu"
    ranks = Ranks.joined(device, job.workers.parallel)
    return train_stage(
        job.config, job.stage, job.start, job.mixture, job.out, ranks,
        stream_of=partial(RayStream, streaming=job.workers.streaming),
    ).to_json()  # fmt: skip


class _RestartLimit(ray.train.UserCallback):
    """Runs in Ray Train's controller: limits restarts, and ends the run where a restart cannot help.

    It ends a run by raising, because Ray Train itself restarts after any error.
    """

    def __init__(self, out: Location, restarts: int):
        self._out, self._restarts = out, restarts
        self._at, self._count = -1, 0

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        """Record the deaths; raise where the run should end."""
        for error in worker_exceptions.values():
            if is_final(error):
                raise TrainingStopped(one_line(error))
        found = checkpoints.newest(self._out / "checkpoints")
        step = found.step if found else 0
        self._count = self._count + 1 if step == self._at else 1
        self._at = step
        # One worker's death breaks the others' connections to it, so a death is the cause among several errors.
        reasons = sorted((one_line(error) for error in worker_exceptions.values()), key=lambda text: "died" not in text)
        line = json.dumps({"time": time.time(), "step": step, "reason": reasons[0]}) + "\n"
        (self._out / FAILURES).put("".join(failures(self._out)) + line)
        if self._count > self._restarts:
            raise TrainingStopped(
                f"workers died {self._count} times without a new checkpoint after update {step}; the last reason: "
                f"{reasons[0]}. The same command resumes from there; a lower micro_batch needs less memory"
            )


def failures(out: Location) -> list[str]:
    """Return the lines of a run's FAILURES, one per death of its workers."""
    try:
        return (out / FAILURES).read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def is_final(error: BaseException) -> bool:
    """Whether another attempt would fail the same way: wrong input, a loss that is not finite, no space left."""
    if isinstance(error, ConnectionError | TimeoutError):  # OSErrors that mean that a peer is gone
        return False
    if reason_in(str(error)) is not None:  # raised by a task that packs rows
        return True
    return isinstance(error, ValueError | OSError | LossNotFinite | torch.OutOfMemoryError | MemoryError)


def one_line(error: BaseException) -> str:
    """Describe the error of a failed worker in one line for a user."""
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
    """Turn Ray Train's error into one that tells a user what to do, where that is known."""
    inner = error.controller_failure if isinstance(error, ray.train.ControllerError) else error
    if isinstance(inner, TrainingStopped):
        return inner
    if is_final(inner):
        return TrainingStopped(one_line(inner))
    if isinstance(error, ray.train.ControllerError):
        return TrainingStopped(f"the workers could not start: {one_line(inner)}")
    return error
