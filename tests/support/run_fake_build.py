"""`python tests/run_fake_build.py INPUT OUT`: a build with fake models in a process of its own, for tests to kill."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_actors
from build_world import config

from ray_jobs.build_pf1m import build

if __name__ == "__main__":
    job = config(Path(sys.argv[1]), Path(sys.argv[2]))
    build(job, fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
