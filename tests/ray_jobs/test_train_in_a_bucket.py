"""A training whose machine is lost, and which another machine resumes: they share a bucket, and no disk."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import read_run, read_stats
from ray_jobs.train import TrainConfig
from tests.support.patience import wait_until
from tests.support.processes import family, kill
from training import checkpoints, log
from training.stages import StageConfig, Stages, TrainingConfig
from training.workers_config import StreamingConfig, WorkersConfig

STAGE = StageConfig(
    tune=("lora",), lora=LoraSettings(r=2, alpha=2), batch=2, epochs=3,
    packing=PackingConfig(window=160, max_images=4, fill="alone"),
)  # fmt: skip
COMMAND = "import pickle, sys; from ray_jobs import train; train.train(pickle.load(open(sys.argv[1], 'rb')))"


def start(config: TrainConfig, machine: Path, bucket: dict[str, str]) -> subprocess.Popen[str]:
    """Start a job on a "machine" with folders of its own, but for Ray's sockets, whose paths must be short."""
    for folder in ("work", "tmp"):
        (machine / folder).mkdir(parents=True)
    (machine / "config").write_bytes(pickle.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(machine / "config")], cwd=machine / "work", text=True,
        env={**os.environ, **bucket, "TMPDIR": str(machine / "tmp"), "RAY_TMPDIR": tempfile.gettempdir()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_machine_resumes_what_a_lost_one_has_left_in_a_bucket(
    tiny, mixture, bucket: str, s3: dict[str, str], tmp_path: Path
) -> None:
    out = location(bucket) / "out"
    for name, ingredient in mixture.items():
        for shard in Path(ingredient.shards).iterdir():
            (location(bucket) / name / shard.name).put(shard.read_bytes())
    config = TrainConfig(
        stage="clever-1", data={name: f"{bucket}/{name}" for name in mixture}, out=str(out),
        training=TrainingConfig(
            base=tiny.config, stages=Stages(clever_1=STAGE), shards_a_group=2, dtype="float32", checkpoint_steps=4
        ),
        workers=WorkersConfig(count=1, cpus=1, streaming=StreamingConfig(tasks=1, task_cpus=0.5)),
    )  # fmt: skip

    lost = start(config, tmp_path / "1", s3)
    wait_until(lambda: lost.poll() is not None or checkpoints.newest(out / "checkpoints") is not None, 600)
    assert lost.poll() is None, lost.communicate()[1][-3000:]
    kill(family(lost.pid))
    lost.communicate()
    kept = checkpoints.newest(out / "checkpoints")
    assert kept is not None and kept.step < 63
    (out / "lock.json").delete()  # the lease that nobody renews; else the next job waits for its end

    resumed = start(config, tmp_path / "2", s3)
    printed, errors = resumed.communicate()
    assert resumed.returncode == 0, errors[-3000:]
    assert str(out / "model") in printed
    layout = OutputLayout(root=out)
    stats, run = read_stats(layout), read_run(layout)
    assert run is not None and stats["samples"] == 3 * 42 and stats["updates"] == 63
    assert [line["step"] for line in log.read(out)] == list(range(1, 64)), "no update is there twice"
    model = load_flamingo(FlamingoConfig(folder=str(out / "model")), merge=False)
    assert any("lora_B" in name for name in model.state_dict())
    assert list((tmp_path / "2" / "work").iterdir()) == [], "nothing lies on a disk"
