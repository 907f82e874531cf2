"""Which deaths lead to a restart, what a user reads about them, and the training log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polite_flamingo.storage.location import location
from training import checkpoints, log
from training.loop import LossNotFinite
from training.progress import Update
from training.ray_trainer import FAILURES, TrainingStopped, _RestartLimit, is_final, one_line


class ActorDiedError(RuntimeError):
    """Has the name and text of Ray's error."""


DEAD = ActorDiedError("The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tpid: 7")
BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3021")


def checkpoint(out: Path, step: int) -> None:
    checkpoints.save(location(out / "checkpoints"), step, {}, {}, {}, keep=2)


def test_deaths_end_a_run_only_where_there_is_no_progress_between_them(tmp_path: Path) -> None:
    deaths = _RestartLimit(location(tmp_path), restarts=2)
    for step in (10, 20, 30):
        checkpoint(tmp_path, step)
        for _ in range(2):
            deaths.after_exception(None, {0: BROKEN, 1: DEAD})
    with pytest.raises(TrainingStopped) as caught:
        deaths.after_exception(None, {0: BROKEN, 1: DEAD})
    assert "died 3 times without a new checkpoint after update 30" in str(caught.value)
    assert "a worker died" in str(caught.value) and "\n" not in str(caught.value)
    noted = [json.loads(line) for line in (tmp_path / FAILURES).read_text().splitlines()]
    assert [one["step"] for one in noted] == [10, 10, 20, 20, 30, 30, 30]
    assert {one["reason"] for one in noted} == {"a worker died (killed, or out of memory)"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LossNotFinite("update 5: loss nan,\n made/train/3"), "update 5: loss nan, made/train/3"),
        (ValueError("checkpoint: 3 tensors differ"), "checkpoint: 3 tensors differ"),
        (OSError("update 6: no checkpoint could be written: No space left"), "update 6: no checkpoint could be"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower the stage's micro_batch"),
    ],
)
def test_what_no_restart_can_mend_ends_a_run_at_once_and_in_one_line(
    tmp_path: Path, error: Exception, told: str
) -> None:
    with pytest.raises(TrainingStopped) as caught:
        _RestartLimit(location(tmp_path), restarts=2).after_exception(None, {0: BROKEN, 1: error})
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / FAILURES).exists()


def test_a_peer_that_is_gone_is_no_mistake_of_the_input() -> None:
    assert not any(map(is_final, (BROKEN, DEAD, ConnectionResetError("reset by peer"), TimeoutError("store"))))
    assert one_line(RuntimeError("Traceback …\n  File\nKeyError: 'x'")) == "KeyError: 'x'"


def update(step: int) -> Update:
    return Update(
        step=step, epoch=0.5, progress=step / 10, loss=1 / step, accuracy=0.5, learning_rate=1e-4, gradient_norm=1.0,
        rows=4, samples=9, tokens=400, trained_tokens=100, fill=0.9, seconds=0.5,
    )  # fmt: skip


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    follower = log.LogFollower(location(tmp_path))
    assert follower.new() == []
    first = log.TrainingLog(location(tmp_path), 0)
    for step in (1, 2, 3):
        first.add(update(step))
    assert [line["step"] for line in follower.new()] == [1, 2, 3] and follower.new() == []
    with (tmp_path / log.FILE).open("a") as file:
        file.write('{"step": 4, "los')  # killed while it wrote
    assert [line["step"] for line in log.read(location(tmp_path))] == [1, 2, 3] and follower.new() == []
    second = log.TrainingLog(location(tmp_path), 2)
    second.add(update(3))
    second.close()
    found = log.read(location(tmp_path))
    assert [line["step"] for line in found] == [1, 2, 3] == [line["step"] for line in follower.new()]
    assert found[0]["tokens_per_second"] == 800 and found[0]["loss"] == 1.0
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_full_disk_is_noticed_by_the_curve(tmp_path: Path) -> None:
    full = log.TrainingLog(location(tmp_path), 0)
    full._lines._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    with pytest.raises(OSError, match="No space left"):
        full.add(update(1))
