"""The training loop, for every stage and any number of ranks. No Ray in it, and no knowledge of where rows come from.

An update takes `stage.batch` rows over all ranks. Its loss is the cross-entropy over supervised tokens, divided by
their number over all ranks and micro-batches, so neither the packing nor the number of ranks changes what a token
counts. Ranks run out of rows at different times: one that has none left gives batches without loss until all are done.

The learning rate is a function of the share of groups that are done, so nothing has to be counted beforehand.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.packing.rows import Packed, Row
from training import checkpoints
from training.distributed import ALONE, World, whole
from training.features import Features
from training.optimiser import Optimiser, learning_rate
from training.stages import StageConfig
from training.step import Batch, Step, make_batch, prepare


class LossNotFinite(RuntimeError):
    """The loss or its gradient is no number any more; the message says where."""


class Stream(Protocol):
    """A rank's rows."""

    def groups(self, epoch: int) -> Sequence[Any]:
        """This rank's groups of an epoch, in their order."""

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        """This rank's groups of an epoch from its `first`-th on, packed."""


@dataclass(kw_only=True)
class Position:
    """Where a rank is: the rows before `row` of its `group`-th group of `epoch` are done, `progress` of its stage."""

    epoch: int = 0
    group: int = 0
    row: int = 0
    progress: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is known of one update, over all ranks.

    Attributes:
        step: updates done, this one included.
        epoch: that it belongs to, as a number with its share.
        progress: share of the stage that is done, in the middle of this update.
        loss: mean cross-entropy of a supervised token, nats.
        accuracy: share of supervised tokens predicted right.
        learning_rate: used.
        gradient_norm: before it was cut.
        rows, samples: trained on.
        tokens, trained_tokens: in the rows without padding; supervised ones.
        fill: share of non-padding tokens, rows padded to the window.
        seconds: since the update before.
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


@dataclass(kw_only=True)
class Tally:
    """What a run has done, over all ranks and all its attempts; JSON types. Without an update there is no loss."""

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

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        return asdict(self) | {"skipped": dict(self.skipped)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Tally:
        """Inverse of `to_json`."""
        losses = {name: record[name] for name in ("first_loss", "last_loss")}
        known = {name: None if loss is None or math.isnan(loss) else loss for name, loss in losses.items()}
        return Tally(**{**record, **known, "skipped": Counter(record["skipped"])})  # checkpoints before had NaN


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the loop wants to know beside the stage; see `stages.TrainingConfig`."""

    checkpoint_steps: int = 100
    keep_checkpoints: int = 2
    features_bytes: int = 4 << 30
    gradient_checkpointing: bool = False
    dtype: torch.dtype = torch.bfloat16
    seed: int = 0


def fit(
    model: FlamingoModel,
    stage: StageConfig,
    stream: Stream,
    folder: Path | None,
    config: LoopConfig,
    world: World = ALONE,
    on_update: Callable[[Update], None] = lambda update: None,
) -> Tally:
    """Train `model` in place, from the newest checkpoint in `folder` if there is one; leave the last one there.

    Args:
        model: on `world.device`, its LoRA attached if the stage tunes one.
        stage: what to do.
        stream: of this rank.
        folder: of checkpoints; None keeps none.
        config: of the loop.
        world: this rank among the others.
        on_update: told of each update, on every rank.

    Raises:
        LossNotFinite: after which the last checkpoint is still good.
        ValueError: the stage tunes nothing; the checkpoint does not fit; the number of ranks has changed.
        OSError: a checkpoint could not be written.
    """
    return _Run(model, stage, stream, folder, config, world, on_update).run()


class _Run:
    """One call of `fit`."""

    def __init__(
        self, model: FlamingoModel, stage: StageConfig, stream: Stream, folder: Path | None, config: LoopConfig,
        world: World, on_update: Callable[[Update], None],
    ):  # fmt: skip
        self.model, self.stage, self.stream, self.folder = model, stage, stream, folder
        self.config, self.world, self.on_update = config, world, on_update
        self.tuned: dict[str, nn.Parameter] = prepare(model, stage)
        if config.gradient_checkpointing:
            model.lang_encoder.gradient_checkpointing_enable({"use_reentrant": False})
        self.features = Features(model, config.features_bytes)
        self.empty = self._empty()
        step = Step(model, isolated=stage.packing.join == "isolated", dtype=config.dtype)
        self.step = world.wrap(step, list(model.lang_encoder._get_decoder_layers()))
        if world.parallel == "fsdp" and world.size > 1:  # sharding replaced the parameters
            self.tuned = dict(zip(self.tuned, (p for p in model.parameters() if p.requires_grad), strict=True))
        self.optimiser = Optimiser(stage, self.tuned)
        self.position, self.tally, self.done = Position(), Tally(), 0
        self._resume()

    def _empty(self) -> Tensor:
        """Features of no image."""
        latents, width = self.model.latents_shape
        weight = next(self.model.vision_encoder.parameters())
        shape = (latents, width) if self.features.latents else (1, self._patches(), width)
        return torch.zeros(shape, dtype=weight.dtype, device=weight.device)

    def _patches(self) -> int:
        return self.model.vision_encoder.positional_embedding.shape[0] - 1  # the class token is not among the patches

    def _resume(self) -> None:
        if self.folder and self.world.rank == 0:
            checkpoints.sweep(self.folder)
        self.world.gather(None)  # nobody looks for a checkpoint before
        found = checkpoints.newest(self.folder) if self.folder else None
        if found is None:
            return
        positions = found.state["positions"]
        if len(positions) != self.world.size:
            raise ValueError(
                f"{found.folder} was written by {len(positions)} workers and cannot be continued by {self.world.size}: "
                "the data would be divided otherwise; give as many, or --fresh"
            )
        self.optimiser.load(found.load(self.tuned))
        self.position = Position(**positions[self.world.rank])
        self.tally = Tally.from_json(found.state["tally"])
        self.done = found.step

    def run(self) -> Tally:
        """All epochs that are left."""
        started = time.perf_counter()
        saved = self.done
        while self.position.epoch < self.stage.epochs:
            for rows, packed in self._batches():
                self._update(rows, packed, started)
                started = time.perf_counter()
                if self.folder and self.done % self.config.checkpoint_steps == 0:
                    self._save()
                    saved = self.done
            self.position = replace(self.position, epoch=self.position.epoch + 1, group=0, row=0)
        if self.folder and (saved != self.done or self.done == 0):
            self._save()
        return self.tally

    def _batches(self) -> Iterator[tuple[list[Row], list[Packed]]]:
        """This rank's rows of each update of the epoch, and the groups that were begun for it; maybe without rows."""
        mine = self.stage.batch // self.world.size + (self.world.rank < self.stage.batch % self.world.size)
        groups = len(self.stream.groups(self.position.epoch))
        packed = self.stream.packed(self.position.epoch, self.position.group)
        rows: list[Row] = []
        begun: list[Packed] = []
        current: Packed | None = None
        while True:
            while len(rows) < mine and self.position.group < groups:
                if current is None:
                    current = next(packed)
                    if self.position.row == 0:
                        begun.append(current)
                taken = current.rows[self.position.row : self.position.row + mine - len(rows)]
                rows += taken
                self.position.row += len(taken)
                if self.position.row >= len(current.rows):
                    self.position = replace(self.position, group=self.position.group + 1, row=0)
                    current = None
            before, self.position.progress = self.position.progress, self._progress(groups, current)
            self._share = (before + self.position.progress) / 2
            if self.world.sum([len(rows)])[0] == 0:
                self._count(begun)
                return
            yield rows, begun
            rows, begun = [], []

    def _progress(self, groups: int, current: Packed | None) -> float:
        """Share of this rank's work that is done once the rows taken so far are."""
        part = self.position.row / len(current.rows) if current is not None and current.rows else 0.0
        done = (self.position.group + part) / groups if groups else 1.0
        return (self.position.epoch + done) / self.stage.epochs

    def _update(self, rows: list[Row], begun: list[Packed], started: float) -> None:
        world, stage = self.world, self.stage
        torch.manual_seed(self.config.seed * 1_000_003 + self.done)  # dropout, if any, is the same after a resume
        pieces = [rows[i : i + stage.micro_batch] for i in range(0, len(rows), stage.micro_batch)] or [[]]
        batches = [self._batch(piece) for piece in pieces]
        counts = world.sum(
            [
                sum(int(batch.loss_BS[:, 1:].sum()) for batch in batches),
                self._share,
                len(rows),
                sum(len(row.keys) for row in rows),
                sum(len(row.ids) for row in rows),
                sum(len(batch.broken) for batch in batches),
            ]
        )
        trained, share = counts[0], counts[1] / world.size
        row_count, samples, tokens, broken = map(int, counts[2:])
        if world.parallel == "fsdp" and world.size > 1:  # its collectives must meet
            most = max(world.gather(len(batches)))
            batches += [self._batch([]) for _ in range(most - len(batches))]
        sums = torch.zeros(2, device=world.device)
        each: list[Tensor] = []
        for number, batch in enumerate(batches):
            with self._unsynced(wait=number < len(batches) - 1):
                lost, right = self.step(batch)
                (lost * (world.size / max(1.0, trained))).backward()
            each.append(lost.detach())
            sums += torch.stack([lost.detach(), right.float()])
        loss, accuracy = (value / max(1.0, trained) for value in world.sum(sums.tolist()))
        norm = self.optimiser.norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimiser.clear()
            suspects = [row for piece, lost in zip(pieces, each, strict=False) if not lost.isfinite() for row in piece]
            raise LossNotFinite(self._where(rows, suspects, loss, norm))
        rate = learning_rate(stage, share)
        self.optimiser.step(rate)
        self.done += 1
        seconds = time.perf_counter() - started
        self._count(begun)
        tally = self.tally
        tally.rows += row_count
        tally.samples += samples
        tally.tokens += tokens
        tally.trained_tokens += int(trained)
        tally.broken_images += broken
        tally.seconds += seconds
        tally.first_loss = loss if self.done == 1 else tally.first_loss
        tally.last_loss = loss
        self.on_update(
            Update(
                step=self.done,
                epoch=share * stage.epochs,
                progress=share,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                rows=row_count,
                samples=samples,
                tokens=tokens,
                trained_tokens=int(trained),
                fill=tokens / max(1, row_count * stage.packing.window),
                seconds=seconds,
            )
        )

    def _count(self, begun: Sequence[Packed]) -> None:
        """What packing left out or cut, over all ranks."""
        for cut, skipped in self.world.gather(
            (sum(len(packed.cut) for packed in begun), [one.reason for packed in begun for one in packed.skipped])
        ):
            self.tally.cut += cut
            self.tally.skipped.update(skipped)

    def _unsynced(self, *, wait: bool) -> AbstractContextManager[None]:
        """Under DDP, gradients of all but the last micro-batch stay here."""
        if wait and isinstance(self.step, nn.parallel.DistributedDataParallel):
            return self.step.no_sync()
        return nullcontext()

    def _batch(self, rows: list[Row]) -> Batch:
        return make_batch(
            rows, self.features, empty=self.empty, pad_id=self.model.tokenizer.pad_id, device=self.world.device
        )

    def _where(self, rows: list[Row], suspects: list[Row], loss: float, norm: float) -> str:
        """What a user reads, the same at every rank: the samples of the micro-batches whose own loss is no number."""
        kept = checkpoints.newest(self.folder) if self.folder else None
        blamed, every = zip(*self.world.gather((_keys(suspects), _keys(rows))), strict=True)
        keys = [key for part in (blamed if any(blamed) else every) for key in part]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return (
            f"update {self.done + 1}: loss {loss}, gradient norm {norm}, on the samples {', '.join(keys[:3])}{more}. "
            "Nothing of it was kept; the last good checkpoint is "
            f"{kept.folder if kept else 'the start'}. Lower the learning rate or raise the warm-up"
        )

    def _save(self) -> None:
        """All ranks gather, the first one writes."""
        positions = self.world.gather(asdict(self.position))
        tuned = {name: whole(parameter) for name, parameter in self.tuned.items()}
        optimizer = self.optimiser.state()
        state = {"positions": positions, "tally": self.tally.to_json()}
        failed = ""
        if self.world.rank == 0:
            assert self.folder is not None
            try:
                checkpoints.save(self.folder, self.done, tuned, optimizer, state, keep=self.config.keep_checkpoints)
            except OSError as error:
                failed = f"update {self.done}: no checkpoint could be written: {error}"
        reasons = [reason for reason in self.world.gather(failed) if reason]
        if reasons:  # at every rank: one that went on alone would wait for the others for ever
            raise OSError(reasons[0])


def _keys(rows: Sequence[Row]) -> list[str]:
    return [key for row in rows for key in row.keys]
