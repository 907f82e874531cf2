"""Actors with a fake model, for tests of what happens around a model: death, poison rows, resume.

The real actors with real models run in `tests/ray_jobs/test_demo.py`; these replace only `load`.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.base import ActorSettings
from actors.rewriting import RewriterActor
from actors.scoring import ScoringActor
from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.sample import Sample
from polite_flamingo.usage import Usage
from tests.support.patience import wait_until


class FakeRewriter:
    """Answers politely, or does what a row's annotation says: "raise", "kill", "slow", "after FILE" (waits for it)."""

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> list[list[str]]:
        for sample in samples:
            if "slow" in sample.response:
                time.sleep(0.05)
            if found := re.search(r"after (/\S+)", sample.response):
                wait_until(Path(found[1]).exists, 300)
            if "raise" in sample.response:
                raise RuntimeError(f"cannot digest {sample.key}")
            if "kill" in sample.response:
                os.kill(os.getpid(), signal.SIGKILL)
        usage["requests"] += sum(len(sample.turns) for sample in samples)
        return [
            [f"Certainly! It seems to be {turn.response}, as one can see." for turn in sample.turns]
            for sample in samples
        ]

    def metrics(self) -> dict[str, float]:
        return {"generated_tokens": 7}


class FakeScorer:
    """Scores that pass every threshold."""

    def score(self, samples: Sequence[Sample], usage: Usage) -> list[dict[str, Any]]:
        return [
            {
                "words": 9, "characters": 50, "same_text": False, "rouge_l": 0.5, "repetition": 0.0, "reward_raw": -1.0,
                "reward": 1.0, "sts": 0.9, "nli": [0.0, 1.0, 2.0], "clip_paragraphs": [20.0],
            }
            for _ in samples
        ]  # fmt: skip


class FakeRewriterActor(RewriterActor):
    def load(self, config: object) -> FakeRewriter:
        return FakeRewriter()


class FakeScoringActor(ScoringActor):
    def load(self, config: object) -> FakeScorer:
        return FakeScorer()


class UnloadableActor(RewriterActor):
    def load(self, config: object) -> FakeRewriter:
        raise ValueError("checkpoint lacks 3 keys of the perceiver")


class ElsewhereActor(RewriterActor):
    """Simulates a machine where another disk is mounted at the output folder's path."""

    def __init__(self, config: RewriterConfig, settings: ActorSettings):
        assert settings.probe is not None
        super().__init__(config, replace(settings, probe=replace(settings.probe, content="of another disk")))


class CrashingLoadActor(RewriterActor):
    def load(self, config: object) -> FakeRewriter:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
