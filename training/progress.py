"""Plain records of training progress: one update, the totals of a run, and a rank's position in its data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Position:
    """A rank's position in its data.

    Attributes:
        epoch: the current epoch.
        group: index of the current group among this rank's groups of the epoch; earlier ones are done.
        row: index of the next row of the group; earlier ones are done.
        progress: share of this rank's stage that is done.
    """

    epoch: int = 0
    group: int = 0
    row: int = 0
    progress: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update of the weights, over all ranks.

    Attributes:
        step: number of updates done, including this one.
        epoch: the epoch as a number with its fraction.
        progress: share of the stage that is done, in the middle of this update.
        loss: mean cross-entropy of a supervised token, in nats; in a preference stage the mean loss of a pair.
        accuracy: share of supervised tokens predicted correctly; in a preference stage of the chosen answers' tokens.
        learning_rate: learning rate of this update.
        gradient_norm: norm of the gradient before clipping.
        rows, samples: how many it trained on.
        tokens, trained_tokens: tokens in the rows, without padding, and how many of them are supervised.
        fill: share of tokens that are not padding, with rows padded to the window.
        seconds: time since the previous update.
        metrics: further figures by the names that TRL gives them.
    """

    step: int
    epoch: float
    progress: float
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    rows: int
    samples: int
    tokens: int
    trained_tokens: int
    fill: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class Totals:
    """Sums over a run, for all ranks and attempts, in JSON types. The losses are None before the first update."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    broken_images: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None

    def add(self, update: Update) -> None:
        """Add an update."""
        self.rows += update.rows
        self.samples += update.samples
        self.tokens += update.tokens
        self.trained_tokens += update.trained_tokens
        self.seconds += update.seconds
        self.first_loss = update.loss if update.step == 1 else self.first_loss
        self.last_loss = update.loss

    def to_json(self) -> dict[str, Any]:
        """Return JSON types that `from_json` reads."""
        return asdict(self) | {"skipped": dict(self.skipped)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Totals:
        """Return what `to_json` wrote."""
        losses = {name: record[name] for name in ("first_loss", "last_loss")}
        known = {name: None if loss is None or math.isnan(loss) else loss for name, loss in losses.items()}
        return Totals(**{**record, **known, "skipped": Counter(record["skipped"])})  # old checkpoints have NaN
