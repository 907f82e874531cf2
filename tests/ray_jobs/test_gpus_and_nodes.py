"""The jobs where they are meant to run: on GPUs (logical ones), and on machines that are lost or see other disks."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from polite_flamingo.pools import Needs, PoolConfig, PoolsConfig
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import console, node_loss
from ray_jobs.build_pf1m import build
from ray_jobs.node_loss import Watch, watched, without_room
from ray_jobs.train import TrainConfig
from serving.config import from_profile
from tests.support import fake_actors
from tests.support.build_world import config, outcome, write_world

REPO = Path(__file__).parents[2]
PUBLISHED = REPO / "profiles" / "openflamingo-9b-v1.yaml"


def run(script: str, *arguments: Path | str) -> dict[str, Any]:
    """What it says on its last line: it has a Ray of its own, and a process can have one at a time."""
    command = [sys.executable, "-m", f"tests.support.{script}", *map(str, arguments)]
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
def test_a_job_goes_on_with_what_is_left_and_says_what_it_waits_for_when_nothing_is(tmp_path: Path) -> None:
    """Actors of a lost machine start again on what is left and take every CPU of it; reading and writing must go on."""
    found = run("run_on_nodes", tmp_path)
    said = found.pop("said")
    assert found == {"alive": 2, "scored": 160}, "the head and the third machine"
    assert "no machine has room for 2 actors with 0.75 CPUs and 0 GPUs and 1 actor with 0.5 CPUs and 0 GPUs" in said
    assert said.endswith("; 1 machine alive with 0 CPUs, 0 GPUs, 2 lost")


def machine(name: str, cpus: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    """Return what `ray.nodes()` says of a machine."""
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9} if alive else {}}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_machines_that_share_nothing_but_a_bucket_leave_what_those_with_a_shared_disk_do(
    tmp_path: Path, bucket: str
) -> None:
    try:
        subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine gives no process a disk of its own: {error}")
    found = run("run_apart", tmp_path, bucket)
    assert found["apart"] == found["shared"] and found["lost"], "in the bucket, with a machine killed meanwhile"
    assert found["apart"]["built"]["rows"] == 90 == found["apart"]["evaluation"]["samples"]


def test_a_job_that_can_not_go_on_with_what_is_left_says_so() -> None:
    rows, nodes = [0], [machine("a", 4, 1), machine("b", 4, 1)]
    pools = [PoolConfig(min_actors=1, max_actors=2, cpus=2, gpus=1), PoolConfig(cpus=2)]
    watch = Watch(pools, lambda: rows[0], lambda: nodes, patience=60)
    assert watch.status(0).problem is watch.status(1000).problem is None, "slow, but nothing was lost"
    nodes[0] = machine("a", 4, 1, alive=False)
    nodes.append(machine("c", 4, 1))
    assert watch.status(1001).problem is watch.status(2000).problem is None, "another machine came for it"
    nodes.pop()
    rows[0] = 1
    assert watch.status(2001).problem is watch.status(2060).problem is None
    said = watch.status(2061).problem
    assert said and "1 machine of the cluster went away and no row was finished for 60 s" in said and "\n" not in said
    assert "what is left (4 CPUs, 1 GPUs)" in said
    rows[0] = 2
    assert watch.status(2062).problem is None, "it goes on after all"


def test_a_job_says_once_a_minute_which_actors_have_no_machine() -> None:
    rows, nodes = [0], [machine("head", 0)]
    pools = [PoolConfig(min_actors=1, max_actors=8, cpus=4, gpus=1), PoolConfig(cpus=4, gpus=0.5)]
    watch = Watch(pools, lambda: rows[0], lambda: nodes, patience=math.inf)
    assert watch.status(1000).waiting is watch.status(1059).waiting is None, "machines take a moment to start"
    assert watch.status(1060).waiting == (
        "no row was finished for 60 s: no machine has room for 1 actor with 4 CPUs and 1 GPUs and "
        "1 actor with 4 CPUs and 0.5 GPUs; 1 machine alive with 0 CPUs, 0 GPUs"
    )
    nodes.append(machine("a", 4, 1))
    assert watch.status(1119).waiting is None
    said = watch.status(1120).waiting
    assert said and "room for 1 actor with 4 CPUs and 0.5 GPUs; 2 machines alive with 4 CPUs, 1 GPUs" in said
    nodes.append(machine("b", 4, 1))
    assert watch.status(1300).waiting is None, "now all have room, and a model takes its time to load"
    nodes[1:] = [machine("a", 4, 1, alive=False), machine("b", 4, 1, alive=False)]
    said = watch.status(1301).waiting
    assert said and said.startswith("no row was finished for 5 min: ") and said.endswith("0 GPUs, 2 lost")
    assert watch.status(10_000).problem is None, "an autoscaler may still start one"


def test_room_is_room_on_one_machine() -> None:
    pool, small = PoolConfig(min_actors=3, max_actors=3, cpus=4), PoolConfig(cpus=1)
    assert without_room([small, pool], [{"CPU": 6}, {"CPU": 6}]) == {pool: 1}, "12 CPUs, but 4 + 2 and 4 + 2"
    assert not without_room([small, pool], [{"CPU": 8}, {"CPU": 5}])


def test_a_pool_asks_for_no_more_actors_than_there_are_shards() -> None:
    pool = PoolConfig(min_actors=4, max_actors=8, cpus=2, gpus=1)
    assert (pool.for_shards(3).min_actors, pool.for_shards(3).max_actors) == (3, 3)
    assert (pool.for_shards(6).min_actors, pool.for_shards(6).max_actors) == (4, 6)
    assert pool.for_shards(0).max_actors == 1 and pool.for_shards(1_000_000) == pool
    pools = PoolsConfig(rewriting=pool, scoring=PoolConfig(cpus=1), task_cpus=0.5)
    assert pools.needs() == Needs(cpus=10, gpus=4) and pools.needs(shards=1) == Needs(cpus=4, gpus=1)


def test_the_main_thread_is_woken_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_loss, "CHECK_SECONDS", 0.01)
    before = signal.getsignal(signal.SIGUSR1)
    nodes = [machine("a", 1)]
    watch = Watch([PoolConfig()], lambda: 0, lambda: nodes, patience=0)
    with pytest.raises(console.JobFailed, match="1 machine of the cluster went away"), watched(watch):
        nodes[0] = machine("a", 1, alive=False)
        threading.Event().wait()
    assert signal.getsignal(signal.SIGUSR1) is before
