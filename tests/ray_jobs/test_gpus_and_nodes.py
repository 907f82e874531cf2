"""The jobs where they are meant to run: on GPUs (logical ones), and on machines that are lost or see other disks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from polite_flamingo.pools import PoolConfig
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import console, node_loss
from ray_jobs.build_pf1m import build
from ray_jobs.node_loss import Watch, watched
from ray_jobs.train import TrainConfig
from serving.config import from_profile
from tests.support import fake_actors
from tests.support.build_world import config, outcome, write_world

REPO = Path(__file__).parents[2]
PUBLISHED = REPO / "profiles" / "openflamingo-9b-v1.yaml"


def run(script: str, folder: Path) -> dict[str, Any]:
    """What it says on its last line: it has a Ray of its own, and a process can have one at a time."""
    command = [sys.executable, "-m", f"tests.support.{script}", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.ray
@pytest.mark.slow
def test_every_job_runs_on_gpus_with_the_pools_of_the_published_profile(tmp_path: Path) -> None:
    """Ray Data asks who wants GPUs for a `batch_size`, and with any it cuts large shards and joins small ones."""
    found = run("run_on_gpus", tmp_path)
    assert found["build"] == {"odd": 7, "s0": 1, "s1": 70, "s2": 700}
    assert found["replay"] == found["build"] | {"odd~replay-1": 1}
    assert found["distort"] == 1 + 70 + 700 + 8
    assert (found["evaluate"]["samples"], found["evaluate"]["answered"]) == (779, 779)


def test_ray_train_and_ray_serve_take_the_gpus_of_the_published_profile() -> None:
    from ray.serve._private.build_app import build_app

    from serving.server.deployments import build
    from training.ray_trainer import scaling

    wanted = ["--stage", "polite", "--data.pairs", "out/pairs", "--out", "out/polite"]
    training = console.parse("train", "", TrainConfig, ["--profile", str(PUBLISHED), *wanted])
    assert scaling(training.workers).total_resources == {"CPU": 64.0, "GPU": 8.0}

    given = yaml.safe_load((REPO / "serving" / "clever-9b.yaml").read_text())["applications"][0]["args"]
    built = build_app(build(from_profile(REPO / given["profile"], given["set"])), name="polite-flamingo")
    gpus = {one.name: one.ray_actor_options.get("num_gpus") for one in built.deployments}
    assert (gpus["chat"], gpus["rewriting"], gpus["scoring"]) == (1.0, 1.0, 0.5)


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_worker_cannot_reach_ends_the_job_and_mended_it_goes_on(tmp_path: Path, ray_session: None) -> None:
    source, out = write_world(tmp_path / "in", shards=2), tmp_path / "out"
    (source / "s1.tar").rename(tmp_path / "of-another-machine.tar")
    (source / "s1.tar").symlink_to(tmp_path / "gone.tar")
    job = config(source, out)
    with pytest.raises(
        console.JobFailed, match=rf"^{source}/s1.tar cannot be read on machine .*it does not exist"
    ) as error:
        build(job, fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
    assert "\n" not in str(error.value)
    assert "s1" not in OutputLayout(root=out).finished()
    (source / "s1.tar").unlink()
    (tmp_path / "of-another-machine.tar").rename(source / "s1.tar")
    with pytest.raises(console.JobFailed, match=rf"^machine .* does not see in {out} what .*another --out$"):
        build(job, fake_actors.ElsewhereActor, fake_actors.FakeScoringActor)
    assert "s1" not in OutputLayout(root=out).finished() and not list(out.glob(".probe-*"))
    build(job, fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
    assert outcome(out) == {"scored": 20}


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_that_is_lost_and_not_replaced_hangs_nothing_and_condemns_nobody(tmp_path: Path) -> None:
    """Its actors start again on what is left and take every CPU of it; reading and writing must go on."""
    assert run("run_on_nodes", tmp_path) == {"nodes": [False, True], "scored": 160}


def test_a_job_that_can_not_go_on_with_what_is_left_says_so() -> None:
    lost, rows, left = set[str](), [0], {"CPU": 8.0, "GPU": 2.0}
    pools = [PoolConfig(min_actors=1, max_actors=2, cpus=2, gpus=1), PoolConfig(cpus=2)]
    watch = Watch(pools, lambda: rows[0], lambda: lost, lambda: left, patience=60)
    assert watch.problem(0) is watch.problem(1000) is None, "slow, but nothing was lost"
    lost.add("a")
    assert watch.problem(1001) is watch.problem(1002) is watch.problem(2000) is None, "another machine came for it"
    left["GPU"] = 1.0
    rows[0] = 1
    assert watch.problem(2001) is watch.problem(2060) is None
    said = watch.problem(2061)
    assert said and "1 machine of the cluster went away and no row was finished for 60 s" in said and "\n" not in said
    rows[0] = 2
    assert watch.problem(2062) is None, "it goes on after all"


def test_the_main_thread_is_woken_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_loss, "CHECK_SECONDS", 0.01)
    before = signal.getsignal(signal.SIGUSR1)
    lost: set[str] = set()
    watch = Watch([PoolConfig()], lambda: 0, lambda: lost, dict, patience=0)
    with pytest.raises(console.JobFailed, match="1 machine of the cluster went away"), watched(watch):
        lost.add("a")
        threading.Event().wait()
    assert signal.getsignal(signal.SIGUSR1) is before
