"""A Ray that cannot be started or joined: one line that says why and what to do, before any work starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_jobs import interruption, ray_start
from ray_jobs.ray_start import why_ended
from tests.support.patience import wait_until

REPO = Path(__file__).parents[2]
START = """
import resource, sys
from ray_jobs.ray_start import RayUnavailable, joined_ray, private_ray

files, address = int(sys.argv[1]), sys.argv[2]
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
try:
    with joined_ray(address) if address else private_ray(1):
        print("it runs")
except RayUnavailable as error:
    print(error)
"""


def said(folder: str = "/tmp", files: int = 0, address: str = "") -> str:
    """What comes of starting a Ray in `folder` with so many open files, or of joining one."""
    done = subprocess.run(
        [sys.executable, "-c", START, str(files), address],
        cwd=REPO, env={"PATH": "/usr/bin:/bin", "RAY_TMPDIR": folder}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and not done.stderr, done
    return done.stdout


def test_a_folder_that_is_none_or_too_long_a_name_is_told_before_ray_starts(tmp_path: Path) -> None:
    assert "set RAY_TMPDIR to another folder" in said("/dev/null")
    assert "set RAY_TMPDIR to a folder of at most 40 characters" in said(f"{tmp_path}/{'x' * 50}")


def test_too_few_open_files_are_told_with_the_limit() -> None:
    assert "this process may open 200 files" in said(files=200)


@pytest.mark.parametrize("address", ["", "ray://"])
def test_nobody_at_the_address_is_told_with_what_to_do(address: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        found = said(address=f"{address}127.0.0.1:{taken.getsockname()[1]}")
    assert found.startswith("no cluster answers at RAY_ADDRESS=") and "`ray start --head`" in found


def test_a_busy_machine_is_told_from_other_failures_by_the_log_of_the_raylet(tmp_path: Path) -> None:
    unknown = f"Ray could not start: its raylet ended at once; its logs are in {tmp_path}"
    assert why_ended("raylet", tmp_path) == unknown
    log = tmp_path / "raylet.err"
    log.write_text("node_manager.cc:100: Check failed: another cause\n")
    assert why_ended("raylet", tmp_path) == unknown
    log.write_text("[C 1 1] Check failed: Timed out waiting for file /tmp/ray/session_1/metrics_agent_port_5f14c844\n")
    found = why_ended("raylet", tmp_path)
    assert "too busy" in found and "run the same command again" in found and str(tmp_path) in found


def test_a_head_that_is_gone_ends_the_job_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, int]] = []
    monkeypatch.setattr(interruption, "end", lambda message, status: ended.append((message, status)))
    monkeypatch.setattr(ray_start, "_HEAD_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(ray_start, "_HEAD_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
        with ray_start._ending_with_head("RAY_ADDRESS=auto"):
            head.settimeout(60)
            for _ in range(10):
                head.accept()[0].close()  # it answers
            assert not ended
            head.close()
            wait_until(lambda: ended)
    message, status = ended[0]
    assert message.startswith(f"the head of the cluster at RAY_ADDRESS=auto has not answered at {address} for ")
    assert message.endswith("run the same command again to resume") and status == 1
