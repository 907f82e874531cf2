"""A stage on Ray: what it leaves, what it refuses, a worker that is killed, a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.preference.loss_config import PreferenceConfig
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import write_run
from ray_jobs import train
from ray_jobs.console import JobFailed
from ray_jobs.resumable_job import begin_run
from ray_jobs.train import TrainConfig, trained
from tests.support.build_world import write_world
from tests.support.patience import wait_until
from tests.support.processes import descendants, kill
from tests.support.train_ranks import RankJob, run_rank, run_ranks
from training import checkpoints, log, ray_trainer
from training.distributed import ONE_PROCESS
from training.progress import Totals
from training.stages import CONNECTOR, StageConfig, Stages, TrainingConfig
from training.workers_config import StreamingConfig, WorkersConfig

PACKING = PackingConfig(window=160, max_images=4, fill="alone")
STAGES = Stages(
    polite=StageConfig(tune=("lora",), lora=LoraSettings(r=2, alpha=2)),
    clever_1=StageConfig(
        tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=2, epochs=3, packing=PACKING
    ),
    clever_2=StageConfig(tune=CONNECTOR, learning_rate=0.01, batch=8, packing=PACKING),
)
EVERY = 4  # updates between two checkpoints


@pytest.fixture(scope="module")
def job(tiny, mixture, tmp_path_factory) -> TrainConfig:
    """Two workers, 63 short updates."""
    return TrainConfig(
        stage="clever-1", data=dict(mixture), out=str(tmp_path_factory.mktemp("killed") / "out"),
        training=TrainingConfig(
            base=tiny.config, stages=STAGES, shards_a_group=2, dtype="float32", checkpoint_steps=EVERY
        ),
        workers=WorkersConfig(count=2, cpus=1, streaming=StreamingConfig(tasks=1, task_cpus=0.5)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def killed(job: TrainConfig, ray_session: None) -> Path:
    """What the job left, one of whose workers was killed in the middle of the second epoch."""
    out = Path(job.out)

    def kill_in_mid_epoch() -> None:
        wait_until(lambda: bool(lines := log.read(location(out))) and lines[-1]["epoch"] > 1.2, 600)
        workers = descendants("RayTrainWorker")
        assert len(workers) == 2, "found other processes than the two workers"
        kill(workers[1:])

    killer = threading.Thread(target=kill_in_mid_epoch)
    killer.start()
    train.train(job)
    killer.join()
    return out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_worker_changes_nothing(job: TrainConfig, killed: Path, tmp_path: Path) -> None:
    deaths = [json.loads(line) for line in (killed / "failures.jsonl").read_text().splitlines()]
    assert len(deaths) == 1 and deaths[0]["reason"] == "a worker died (killed, or out of memory)"
    assert 20 < deaths[0]["step"] < 60 and deaths[0]["step"] % EVERY == 0, "it went on from a checkpoint in mid-run"

    undisturbed = RankJob(config=job.training, stage=job.stage, mixture=train.mixture_of(job), out=tmp_path / "out")
    (expected,) = run_ranks(2, [undisturbed], tmp_path)
    found = log.read(location(killed))
    assert [line["step"] for line in found] == list(range(1, len(expected) + 1)), "no update is there twice"
    order = ("samples", "tokens", "trained_tokens", "progress", "learning_rate")
    assert [[line[name] for name in order] for line in found] == [
        [getattr(update, name) for name in order] for update in expected
    ], "the same samples in the same order"
    assert len({line["tokens"] for line in found}) > 5, "another order would show"
    assert [line["loss"] for line in found] == pytest.approx([update.loss for update in expected], rel=1e-4)

    after, before = (
        load_flamingo(FlamingoConfig(folder=str(out / "model")), merge=False).state_dict()
        for out in (killed, undisturbed.out)
    )
    assert after.keys() == before.keys() and any("lora_B" in name for name in after)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_finished_is_not_done_again_and_nothing_else_gets_in(
    job: TrainConfig, killed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run", None)  # starting any work would raise
    train.train(replace(job, training=replace(job.training, keep_checkpoints=5), workers=WorkersConfig()))
    printed = capsys.readouterr().out
    assert "is finished" in printed and str(killed / "model") in printed
    assert (
        f"samples                     {3 * 42} in 126 packed rows" in printed
        and "restarts                    1" in printed
    )
    assert "learning_rate: 0.02" in (killed / "config.yaml").read_text()
    steps = [event.step for event in events(killed) if event.summary.value]
    assert steps == [line["step"] for line in log.read(location(killed))], "TensorBoard shows no update twice either"
    with pytest.raises(ValueError, match=r"another configuration .*--fresh"):
        train.train(replace(job, training=replace(job.training, seed=1)))
    with pytest.raises(ValueError, match=r"another configuration .*--fresh"):
        train.train(replace(job, data={"seen": job.data["seen"]}))


def test_what_cannot_work_is_refused_before_anything_starts(job: TrainConfig, tmp_path: Path) -> None:
    job = replace(job, out=str(tmp_path / "out"))

    def refused(**changes: object) -> str:
        with pytest.raises(ValueError) as caught:
            train.train(replace(job, **changes))
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "data 'gone': input " in refused(data={**job.data, "gone": "no/such/folder"})
    assert "is not a trained model" in refused(init=str(tmp_path))
    assert "5 workers for 4 groups" in refused(workers=WorkersConfig(count=5))
    assert "3 workers for a batch of 2 rows" in refused(workers=WorkersConfig(count=3))
    assert "workers.gpus 0" in refused(training=replace(job.training, device="cuda"))
    muon = replace(STAGES, clever_1=replace(STAGES.clever_1, optimizer="muon"))
    off = replace(STAGES, dpo=replace(STAGES.dpo, preference=PreferenceConfig(reference="adapter_off")))
    adapted = replace(job.training, stages=off, base=replace(job.training.base, lora="some/adapter"))
    assert "would compare with the base model" in refused(stage="dpo", training=adapted)
    drafts = {"pairs": replace(job.data["seen"], protocol="rewriting")}
    assert "stage dpo learns pairs of answers" in refused(stage="dpo", data=drafts)
    assert "fsdp divides" in refused(
        training=replace(job.training, stages=muon), workers=WorkersConfig(count=2, parallel="fsdp")
    )


def test_a_mixture_of_which_nothing_is_left_is_no_success(
    job: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "running_ray", lambda needs: nullcontext())
    monkeypatch.setattr("ray_jobs.pipeline.seen_by_all", lambda root: nullcontext())
    monkeypatch.setattr(ray_trainer, "train", lambda work, show: Totals(skipped=Counter(bad_field=42)))
    with pytest.raises(JobFailed, match=r"every sample was left out \(bad_field 42\)"):
        train.train(replace(job, out=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "stats.json").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_pairs_are_packed_by_ray_tasks_and_what_the_policy_gained_is_told_at_the_end(
    job: TrainConfig, pair_mixture, ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = StageConfig(
        tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=4, preference=PreferenceConfig(),
        packing=PackingConfig(window=400, max_images=8, fill="best_fit", join="isolated"),
    )  # fmt: skip
    dpo = replace(
        job, stage="dpo", data=dict(pair_mixture), out=str(tmp_path / "out"), workers=replace(job.workers, count=1),
        training=replace(job.training, stages=replace(STAGES, dpo=stage)),
    )  # fmt: skip
    train.train(dpo)
    lines = log.read(location(tmp_path / "out"))
    assert sum(line["samples"] for line in lines) == 24 and lines[-1]["rewards/margins"] > 0
    alone = run_rank(
        ONE_PROCESS, RankJob(config=dpo.training, stage="dpo", mixture=pair_mixture, out=tmp_path / "alone")
    )
    assert [line["loss"] for line in lines] == pytest.approx([update.loss for update in alone], rel=1e-4)
    assert f"{lines[-1]['rewards/margins']:.4f} in the last update" in capsys.readouterr().out


def test_polite_stages_learn_to_rewrite(job: TrainConfig) -> None:
    mixture = train.mixture_of(replace(job, stage="polite", data={"pairs": "some/pairs"}))
    assert (mixture["pairs"].protocol, mixture["pairs"].response) == ("rewriting", "rewritten")
    assert Path(mixture["pairs"].shards).is_absolute(), "workers may have another working directory"
    assert train.mixture_of(replace(job, data={"pairs": "some/pairs"}))["pairs"].protocol == "chat"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_full_disk_ends_the_job_in_one_line_and_room_lets_it_go_on(
    job: TrainConfig, small_disk: Path, ray_session: None
) -> None:
    out = small_disk / "out"
    job = replace(
        job, stage="clever-2", out=str(out), workers=replace(job.workers, count=1),
        training=replace(job.training, checkpoint_steps=1),
    )  # fmt: skip
    rank = RankJob(config=job.training, stage=job.stage, mixture=train.mixture_of(job), out=small_disk / "measured")
    expected = run_rank(ONE_PROCESS, rank)
    whole = checkpoints.newest(location(rank.out) / "checkpoints")
    assert whole is not None
    size = whole.tuned.size + whole.optimizer.size
    assert size > 100_000, "it must outweigh the logs"
    filler = small_disk / "filler"
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - size * 3 // 2))  # for one checkpoint and the logs

    with pytest.raises(JobFailed, match=r"^update 2: no checkpoint could be written: .*[Nn]o space left") as caught:
        train.train(job)
    assert "\n" not in str(caught.value)
    kept = checkpoints.newest(location(out) / "checkpoints")
    assert kept is not None and kept.step == 1 and load(kept.read(kept.tuned))
    files = {"step-000001.json", kept.tuned.path, kept.optimizer.path}
    assert {path.name for path in (out / "checkpoints").iterdir()} == files, "nothing half-written is left"
    assert not (out / "model").exists() and not (out / "stats.json").exists()

    filler.unlink()
    again = run_rank(ONE_PROCESS, replace(rank, out=out))
    assert [update.step for update in again] == [update.step for update in expected[1:]]
    assert [update.loss for update in again] == pytest.approx([update.loss for update in expected[1:]], rel=1e-4)
    assert (out / "model" / "flamingo.yaml").exists()


def events(out: Path) -> list:
    """The events of the one TensorBoard file of a run."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (out / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_shards_that_have_changed_since_a_run_was_begun_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their sizes say little: a tar's is a multiple of 10,240 bytes."""
    layout, path = OutputLayout(root=tmp_path / "out"), write_world(tmp_path / "in", shards=1) / "s0.tar"
    layout.root.path.mkdir()
    (layout.root / "inputs.json").put("{}")  # of a run that was killed before it began
    train.check_shards(layout, [path])
    write_run(layout, begin_run("hash", {}, ""))
    path = Path(shutil.copy(path, tmp_path / "s0.tar"))
    train.check_shards(layout, [path])
    write_world(tmp_path, shards=1, special={(0, 3): "a PLAIN row"})
    with pytest.raises(ValueError, match=r"1 of 1 shards has changed since .*/out was made: .*s0\.tar; give"):
        train.check_shards(layout, [path])
    assert capsys.readouterr().out == ""
    (layout.root / "inputs.json").delete()
    train.check_shards(layout, [path])
    assert "was made by an earlier version: whether its input has changed" in capsys.readouterr().out


def test_a_stage_starts_from_a_folder_an_address_or_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trained("out/model") == str(tmp_path / "out/model") and trained("s3://b/model") == "s3://b/model"
    assert (Path(trained("zoo:clever_flamingo")) / "flamingo.yaml").exists()
    with pytest.raises(FileNotFoundError, match="zoo:nothing"):
        trained("zoo:nothing")
