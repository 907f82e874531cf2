"""Fixtures for all tests: one Ray for the whole session, and small shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ray_jobs.serve import serve_environment

# No test depends on how busy the machine is, or on luck: every run has the same examples. With
# --hypothesis-profile=searching, each run samples its own.
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("searching"), derandomize=True)
settings.load_profile("steady")
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling); tests have time-outs, and often a busy machine
os.environ.pop("RAY_ADDRESS", None)
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
def demo_folder(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """Run a small `polite-flamingo demo` once; tests that change its output work on a copy."""
    from ray_jobs.demo import DemoConfig, demo

    out = tmp_path_factory.mktemp("demo") / "out"
    demo(DemoConfig(out=str(out), samples=12, samples_per_shard=8))
    return out
