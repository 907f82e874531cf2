"""Ray's own cluster launcher would accept `cluster.yaml`, and mistakes in it are found."""

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_jobs import build_pf1m, console
from ray_jobs.cluster import check_size

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def launcher_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does to a file before it touches the cloud; returns it with the defaults filled in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_the_launcher_accepts_the_file(cluster: dict[str, Any]) -> None:
    prepared = launcher_accepts(cluster)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0, "a second head would be started as a worker"
    assert any("make setup" in command for command in prepared["worker_setup_commands"])


SLIPS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a misspelt key": (lambda c: c.update(max_worker=3), "max_worker"),
    "a misspelt key of a node type": (
        lambda c: c["available_node_types"]["gpu_worker"].update(min_worker=0),
        "min_worker",
    ),
    "a number in quotes": (lambda c: c.update(max_workers="12"), "'12'"),
    "a command with a colon that YAML reads as a mapping": (
        lambda c: c.update(setup_commands=[{"make": "setup"}]),
        "is not of type 'string'",
    ),
    "half a GPU": (lambda c: c["available_node_types"]["gpu_worker"]["resources"].update(GPU=0.5), "0.5"),
    "a head type that is not there": (lambda c: c.update(head_node_type="haed"), "head_node_type"),
    "more workers wanted than allowed": (lambda c: c.update(max_workers=-1), "-1"),
    "more always on than allowed": (
        lambda c: c["available_node_types"]["gpu_worker"].update(min_workers=99),
        "min_workers",
    ),
    "a cloud that does not exist": (lambda c: c["provider"].update(type="awss"), "awss"),
    "a container without a name": (lambda c: c["docker"].pop("container_name"), "container"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_caught(cluster: dict[str, Any], slip: str) -> None:
    spoil, complaint = SLIPS[slip]
    spoil(cluster)
    with pytest.raises(Exception, match=re.escape(complaint)):
        launcher_accepts(cluster)


def test_gpu_machines_come_only_when_asked_for(cluster: dict[str, Any]) -> None:
    with_gpu = [node for node in cluster["available_node_types"].values() if node["resources"].get("GPU", 0)]
    assert with_gpu, "no node type has a GPU"
    for node in with_gpu:
        assert node["min_workers"] == 0
        assert node["max_workers"] >= 1


def the_job() -> build_pf1m.BuildConfig:
    """The job that the file shows, as our own command line reads it."""
    shown = (ROOT / "cluster.yaml").read_text().replace("\\\n#", "")
    (command,) = re.findall(r"^#   .*ray job submit .* -- +polite-flamingo build (.*)$", shown, re.MULTILINE)
    return console.parse("build", "", build_pf1m.BuildConfig, shlex.split(command))


def test_the_job_that_it_shows_lies_in_a_bucket_and_fits_at_its_largest(cluster: dict[str, Any]) -> None:
    job = the_job()
    assert job.input.startswith("s3://BUCKET/") and job.out.startswith("s3://BUCKET/")
    assert job.pools.autoscaling, "the job would refuse a cluster without machines"
    types = cluster["available_node_types"]
    most = {kind: sum(one.get("max_workers", 0) * one["resources"].get(kind, 0) for one in types.values())
            for kind in ("CPU", "GPU")}  # fmt: skip
    check_size(most, job.pools.needs())
    used = [job.pools.rewriting, job.pools.scoring]
    assert most["GPU"] == sum(pool.max_actors * pool.gpus for pool in used)
    assert cluster["max_workers"] == sum(one.get("max_workers", 0) for one in types.values())


def test_every_machine_may_use_the_bucket_and_only_the_head_starts_others(cluster: dict[str, Any]) -> None:
    profiles = {
        name: one["node_config"]["IamInstanceProfile"]["Name"] for name, one in cluster["available_node_types"].items()
    }
    head = profiles.pop(cluster["head_node_type"])
    assert set(profiles.values()) == {"polite-flamingo-worker"} and head == "polite-flamingo-head"
    assert "arn:aws:iam::ACCOUNT:role/polite-flamingo-worker" in (ROOT / "deploy/aws/autoscaler.json").read_text()
    assert re.search(r"^obstore==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_work_keeps_off_the_head(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_images_carry_the_ray_of_the_lock(cluster: dict[str, Any]) -> None:
    locked = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    images = [cluster["docker"]["image"]]
    images += [node["docker"]["worker_image"] for node in cluster["available_node_types"].values() if "docker" in node]
    for image in images:
        assert image.startswith(f"rayproject/ray:{locked[1]}-py311"), image


def test_nodes_are_set_up_from_the_lock_and_share_a_token(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/polite-flamingo"] == "."
    assert any("cd ~/polite-flamingo && make setup" in command for command in cluster["setup_commands"])
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert "polite-flamingo/.venv/bin/activate" in start, "actors would run outside the project's environment"
        assert start.startswith("cd ~/polite-flamingo && "), "relative names in profiles would lead nowhere"
        assert "RAY_AUTH_MODE=token" in start


def test_the_dashboard_listens_on_the_loopback_only(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
