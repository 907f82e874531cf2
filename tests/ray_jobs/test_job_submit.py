"""The same job on a cluster: `ray start --head`, then `ray job submit`, as the README says; the same output as here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.build_world import results
from tests.support.processes import family, kill
from tests.support.readme import commands

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
REPO = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_ports(count: int) -> list[int]:
    """Different ones."""
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in found]


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A head node with its own ports and folder; the environment for `ray job submit`. Ends only its own processes."""
    folder = tempfile.mkdtemp(prefix="r")  # socket paths must stay short
    gcs, dashboard, agent = free_ports(3)
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")}
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # as an activated environment
    environment |= {"RAY_AUTH_MODE": "disabled", "PATH": path}
    ports = {"--port": gcs, "--dashboard-port": dashboard, "--dashboard-agent-listen-port": agent}
    options = [f"{name}={port}" for name, port in ports.items()]
    command = [*RAY, "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={folder}", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(dashboard, process)
            yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        finally:
            kill(family(process.pid))
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start failed"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the dashboard never came up")


def submit(environment: dict[str, str], *command: str, status: int = 0) -> str:
    """`ray job submit`, tried again while the head's agent is still starting; returns what the job printed."""
    for attempt in range(10):
        done = subprocess.run(
            [*RAY, "job", "submit", "--working-dir", ".", "--", *command],
            cwd=REPO, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        if "No available agent" not in done.stderr + done.stdout:
            break
        time.sleep(2 + attempt)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_submitted_to_a_cluster_it_does_the_same(tmp_path: Path, head: dict[str, str], demo_folder: Path) -> None:
    start, submission = [line for line in commands() if line.startswith("ray ")]
    assert start == "ray start --head"
    asked = submission.replace("$PWD/out/demo", str(demo_folder)).replace("$PWD", str(tmp_path))
    build = asked.removeprefix("ray job submit --working-dir . -- ")
    assert build != asked
    relative = "polite-flamingo select --out out/mine"  # in the same job: each costs a start
    printed = submit(head, "bash", "-c", f"{build} && {relative}", status=1)
    assert "rows in" in printed
    assert results(tmp_path / "out" / "cluster") == results(demo_folder)
    assert "select: error: --out out/mine: a submitted job runs in a temporary copy of the working directory" in printed
