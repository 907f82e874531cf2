"""Stand-ins for simulations of scale: actors that sleep instead of running a model; all else is the real job.

This is a separate module so that Ray's workers import nothing heavy with it.
"""

from __future__ import annotations

import secrets
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
from polite_flamingo.usage import Usage

SCORES = {
    "words": 9, "characters": 50, "same_text": False, "rouge_l": 0.5, "repetition": 0.0, "reward_raw": -1.0,
    "reward": 1.0, "sts": 0.9, "nli": [0.0, 1.0, 2.0], "clip_paragraphs": [20.0],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Takes the place of a model's configuration.

    Attributes:
        seconds_per_row: mean latency; each row differs from it by a fixed amount of up to a half.
        load_seconds: time until the model is loaded.
        log: folder for the times at which each actor worked; "" for none.
        kind: of the rewriter, as in a profile; with the kind flamingo the job itself asks no server.
        all_served: of the scorer: whether its models are behind servers.
    """

    seconds_per_row: float = 0.0
    load_seconds: float = 0.0
    log: str = ""
    kind: str = "flamingo"
    all_served: bool = False

    def wait(self, samples: Sequence[Sample]) -> None:
        """Sleep for as long as a model would take for these rows."""
        if self.seconds_per_row:
            shares = (zlib.crc32(sample.key.encode()) / 2**32 for sample in samples)
            time.sleep(sum(self.seconds_per_row * (0.5 + share) for share in shares))


@dataclass(frozen=True)
class StandInModel:
    """Answers after its latency."""

    config: StandIn

    def rewrite(self, samples: Sequence[Sample], usage: Usage) -> list[list[str]]:
        """Return the annotation in a polite sentence."""
        self.config.wait(samples)
        return [[f"Certainly! It seems to be {sample.response}, as one can see."] for sample in samples]

    def metrics(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def score(self, samples: Sequence[Sample], usage: Usage) -> list[dict[str, Any]]:
        """Return scores that pass every threshold."""
        self.config.wait(samples)
        return [dict(SCORES) for _ in samples]


class StandInRewriterActor(RewriterActor):
    """`RewriterActor` around a stand-in; logs when it works."""

    def load(self, config: Any) -> StandInModel:
        """Load no model."""
        self._log = Path(config.log, f"{secrets.token_hex(8)}.log") if config.log else None
        time.sleep(config.load_seconds)
        return StandInModel(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process a block like the real actor."""
        started = time.time()
        rows = super().__call__(table)
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{started} {time.time()} {table.num_rows}\n")
        return rows


class StandInScoringActor(ScoringActor):
    """`ScoringActor` around a stand-in."""

    def load(self, config: Any) -> StandInModel:
        """Load no model."""
        time.sleep(config.load_seconds)
        return StandInModel(config)
