"""A job's own Ray listens on every interface, so it must refuse strangers."""

import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import sys, subprocess
from polite_flamingo.pools import PoolsConfig
from ray_jobs.cluster import running_ray

with running_ray(PoolsConfig().needs()):
    import ray

    print(ray.get(ray.remote(lambda: "its own workers are let in").remote()))
    address = ray.get_runtime_context().gcs_address
    stranger = "import ray, sys; ray.init(address=sys.argv[1]); print('let in')"
    env = {"PATH": "/usr/bin:/bin", "HOME": sys.argv[1], "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", stranger, address], env=env, capture_output=True, text=True)
    print("let in" if "let in" in done.stdout else done.stderr)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_private_ray_turns_strangers_away(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}  # without the setting that tests make for their own Ray
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("its own workers are let in\n")
    assert "AuthenticationError" in done.stdout, "a stranger was let in, or failed for another reason"
    assert not (tmp_path / ".ray" / "auth_token").exists(), "the token of a private Ray is written nowhere"
