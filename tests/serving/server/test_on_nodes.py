"""The service on several machines, one of which is killed: raylet, workers and all, by SIGKILL."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.readme import REPO


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_machine_costs_no_batch_job_and_only_the_streams_in_its_hands(bucket: str) -> None:
    command = [sys.executable, "-m", "tests.support.service_on_nodes", bucket]
    environment = {
        **os.environ,
        "RAY_SERVE_ENABLE_HA_PROXY": "0",  # it expects that each machine has its own ports
        "RAY_health_check_timeout_ms": "60000",  # a busy machine is not a lost one; a lost one refuses connections
        "RAY_raylet_start_wait_time_s": "300",
    }
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes of"]["ingress"] == found["nodes of"]["chat"] == 3, "replicas are spread over the machines"
    streams = found["streams"]
    assert streams["lost"] <= streams["in its hands"] < 12
    assert streams["whole"] == 12 - streams["lost"], "an answer whose engine died goes on elsewhere"
    assert found["again"] == [True] * 4
    assert found["bulk"] == {"status": "completed", "good": [f"row {number:02}" for number in range(15)], "bad": 0}
