"""Actors that sleep in place of a model, for simulations of scale: everything around the model is the real job's.

In a module of its own, so that Ray's workers import it and nothing heavy with it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.rewriting import RewriterActor
from actors.scoring import ScoringActor
from polite_flamingo.sample import Sample

SCORES = {
    "words": 9, "characters": 50, "same_text": False, "rouge_l": 0.5, "repetition": 0.0, "reward_raw": -1.0,
    "reward": 1.0, "sts": 0.9, "nli": [0.0, 1.0, 2.0], "clip_paragraphs": [20.0],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """In place of a model's configuration.

    Attributes:
        seconds_per_row: mean latency; rows differ by up to half of it, each always by the same.
        log: a folder for the times at which each actor was at work; none is kept where it is empty.
    """

    seconds_per_row: float = 0.0
    log: str = ""

    def wait(self, samples: Sequence[Sample]) -> None:
        """Sleep as long as a model would take for these rows."""
        if self.seconds_per_row:
            drawn = (zlib.crc32(sample.key.encode()) / 2**32 for sample in samples)
            time.sleep(sum(self.seconds_per_row * (0.5 + share) for share in drawn))


@dataclass(frozen=True)
class StandInModel:
    """Answers after its latency."""

    config: StandIn

    def rewrite(self, samples: Sequence[Sample]) -> list[str]:
        """The annotation in a polite sentence."""
        self.config.wait(samples)
        return [f"Certainly! It seems to be {sample.response}, as one can see." for sample in samples]

    def metrics(self) -> dict[str, float]:
        """Nothing is counted."""
        return {}

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Numbers that every threshold likes."""
        self.config.wait(samples)
        return [dict(SCORES) for _ in samples]


class StandInRewriterActor(RewriterActor):
    """`RewriterActor` around a stand-in; notes when it was at work."""

    def load(self, config: Any) -> StandInModel:
        """Nothing is loaded."""
        self._log = Path(config.log, f"{os.getpid()}.log") if config.log else None
        return StandInModel(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """As the real one."""
        started = time.time()
        rows = super().__call__(table)
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{started} {time.time()} {table.num_rows}\n")
        return rows


class StandInScoringActor(ScoringActor):
    """`ScoringActor` around a stand-in."""

    def load(self, config: Any) -> StandInModel:
        """Nothing is loaded."""
        return StandInModel(config)
