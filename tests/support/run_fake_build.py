"""`python -m tests.support.run_fake_build INPUT OUT`: a build with fake models in its own process, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from ray_jobs.build_pf1m import build
from tests.support import fake_actors
from tests.support.build_world import config

if __name__ == "__main__":
    job = config(Path(sys.argv[1]), Path(sys.argv[2]))
    build(job, fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor)
