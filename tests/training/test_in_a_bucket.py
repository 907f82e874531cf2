"""A stage whose output lies in a bucket, and whose machine disappears in the middle of a checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.storage import growing_file
from polite_flamingo.storage.location import Location, location
from tests.training.test_ray_trainer import update
from training import checkpoints, log
from training.data import Ingredient
from training.progress import Totals, Update
from training.run_stage import train_stage
from training.stages import StageConfig, Stages, TrainingConfig

LORA = StageConfig(
    tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=3, epochs=2,
    packing=PackingConfig(window=160, max_images=4),
)  # fmt: skip


def train(config: TrainingConfig, mixture: Mapping[str, Ingredient], out: Location) -> tuple[list[Update], Totals]:
    updates: list[Update] = []
    totals = train_stage(config, "clever-1", config.base, mixture, out, on_update=updates.append)
    return updates, totals


def steps(out: Location) -> list[int]:
    """The updates in a log."""
    return [line["step"] for line in log.read(out)]


def train_until(
    point: str,
    config: TrainingConfig,
    mixture: Mapping[str, Ingredient],
    out: str,
    env: Mapping[str, str],
    parent: Connection,
) -> None:
    """In another process: train, and wait to be killed in the middle of the checkpoint of update 4."""
    os.environ.update(env)
    torch.set_num_threads(1)
    put, create = checkpoints._put, Location.create

    def wait() -> None:
        parent.send("here")
        signal.pause()

    def after_a_file(folder: Location, path: str, data: bytes) -> checkpoints.StoredFile:
        file = put(folder, path, data)
        if path.startswith("step-000004"):
            wait()
        return file

    def before_a_manifest(place: Location, data: bytes | str) -> bool:
        if place.name == "step-000004.json":
            wait()
        return create(place, data)

    if point == "after its first file":
        checkpoints._put = after_a_file
    else:
        Location.create = before_a_manifest  # type: ignore[method-assign]
    train(config, mixture, location(out))


@pytest.fixture(scope="module")
def config(tiny) -> TrainingConfig:
    return TrainingConfig(
        base=tiny.config, stages=Stages(clever_1=LORA), shards_a_group=2, dtype="float32", checkpoint_steps=2
    )


@pytest.mark.slow
def test_whatever_moment_a_machine_disappears_in_another_one_goes_on_from_the_last_checkpoint(
    config: TrainingConfig, mixture, bucket: str, s3: dict[str, str], tmp_path: Path
) -> None:
    expected, tally = train(config, mixture, location(tmp_path))
    assert len(expected) > 6
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_in_a_bucket"])
    for point, files in (("after its first file", 1), ("before its manifest", 2)):
        out = location(f"{bucket}/{files}")
        here, there = context.Pipe()
        process = context.Process(target=train_until, args=(point, config, mixture, str(out), s3, there))
        process.start()
        there.close()
        assert here.recv() == "here"
        process.kill()
        process.join()

        folder = out / "checkpoints"
        assert len([name for name in folder.names() if name.startswith("step-000004.")]) == files
        kept = checkpoints.newest(folder)
        assert kept is not None and kept.step == 2, "half a checkpoint is none"
        assert set(steps(out)) >= {1, 2}, "what a checkpoint has behind it is in the log"

        updates, totals = train(config, mixture, out)
        assert [u.step for u in updates] == [u.step for u in expected[2:]]
        assert [u.loss for u in updates] == pytest.approx([u.loss for u in expected[2:]], rel=1e-4)
        assert (totals.samples, totals.trained_tokens) == (tally.samples, tally.trained_tokens)
        assert steps(out) == steps(location(tmp_path)) == [u.step for u in expected]
        named = [json.loads((folder / name).read_text())["files"] for name in folder.names() if name.endswith(".json")]
        assert len(named) == config.keep_checkpoints
        assert len(folder.names()) == 3 * len(named), "what was half written is gone, and so are older checkpoints"
        lora = {"lora/adapter_config.json", "lora/adapter_model.safetensors"}
        assert {*(out / "model").names()} == {"flamingo.yaml", *lora}
        alone, resumed = (
            load_flamingo(FlamingoConfig(folder=str(place / "model")), merge=False).state_dict()
            for place in (location(tmp_path), out)
        )
        assert all(torch.allclose(resumed[name], alone[name], atol=1e-4) for name in alone)


def test_a_log_in_a_bucket_is_followed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put again as a whole from time to time, and whenever a checkpoint needs it."""
    out, clock = location(bucket), [0.0]
    monkeypatch.setattr(growing_file, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    follower = log.LogFollower(out)
    assert follower.new() == []
    writer = log.TrainingLog(out, 0)
    writer.add(update(1))
    assert follower.new() == [], "not due yet"
    clock[0] += 2.5
    writer.add(update(2))
    assert [line["step"] for line in follower.new()] == [1, 2] and follower.new() == []
    writer.add(update(3))
    writer.flush()
    assert [line["step"] for line in follower.new()] == [3]
    (events,) = (out / "tensorboard").names()
    assert (out / "tensorboard" / events).read_bytes().count(b"train/loss") == 3
    again = log.TrainingLog(out, 2)
    again.add(update(3))
    again.close()
    assert [line["step"] for line in follower.new()] == [1, 2, 3] == steps(out)
