"""The training loop: updates, checkpoints and resume, for every stage and any number of ranks. It does not use Ray.

An update takes `stage.batch` rows over all ranks. Its loss is the cross-entropy over supervised tokens, divided by
their number over all ranks and micro-batches, so neither packing nor the number of ranks changes the weight of a token;
likewise the loss of a preference stage is divided by the number of pairs (`preference_loss.py`).
Ranks run out of rows at different times: a rank without rows contributes batches without loss until all are done.

The learning rate is a function of the share of groups that are done, so nothing has to be counted beforehand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from polite_flamingo.packing.pack import Packed, PackedRow
from polite_flamingo.storage.location import Location
from training import checkpoints, reference
from training.data import LocalStream
from training.distributed import ONE_PROCESS, Ranks, whole
from training.features import Features
from training.freezing import freeze_untuned
from training.loss import Batch, ModelWithLoss, make_batch
from training.optimiser import Optimiser, learning_rate
from training.preference_loss import ModelWithPreferences
from training.progress import Position, Totals, Update
from training.reference import Reference
from training.stages import StageConfig, TrainingConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class LossNotFinite(RuntimeError):
    """The loss or its gradient is NaN or infinite; the message says where."""


class TrainingLoop:
    """Trains a model in place, from the newest checkpoint in a folder if there is one."""

    def __init__(
        self,
        model: FlamingoModel,
        stage: StageConfig,
        stream: LocalStream,
        folder: Location,
        config: TrainingConfig,
        dtype: torch.dtype,
        ranks: Ranks = ONE_PROCESS,
        on_update: Callable[[Update], None] = lambda update: None,
        on_save: Callable[[], None] = lambda: None,
    ):
        """Prepare the model and resume.

        Args:
            model: the model on `ranks.device`, with LoRA attached if the stage tunes it.
            stage: what to tune, and how.
            stream: this rank's data.
            folder: folder of the checkpoints.
            config: the `training` section of a profile; its `stages`, `base` and `dtype` are not read here.
            dtype: dtype of matrix products.
            ranks: this process among the others.
            on_update: called with each update, on every rank.
            on_save: called on rank 0 before a checkpoint is written.

        Raises:
            ValueError: the stage tunes nothing; the checkpoint does not fit; the number of ranks has changed.
        """
        self.model, self.stage, self.stream, self.folder = model, stage, stream, folder
        self.config, self.ranks, self.on_update, self.on_save = config, ranks, on_update, on_save
        self.tuned: dict[str, nn.Parameter] = freeze_untuned(model, stage)
        if config.gradient_checkpointing:
            model.lang_encoder.gradient_checkpointing_enable({"use_reentrant": False})
        self.features = Features(model, config.features_bytes)
        self.empty = self._empty()
        self.objective: ModelWithLoss | ModelWithPreferences = (
            ModelWithLoss(model, isolated=stage.packing.join == "isolated", dtype=dtype)
            if stage.preference is None
            else ModelWithPreferences(model, stage.preference, dtype=dtype)
        )
        self.module = ranks.wrap(self.objective, list(model.lang_encoder._get_decoder_layers()))
        if ranks.sharded:  # sharding replaced the parameters
            self.tuned = dict(zip(self.tuned, (p for p in model.parameters() if p.requires_grad), strict=True))
        self.optimiser = Optimiser(stage, self.tuned)
        self.position, self.totals, self.done = Position(), Totals(), 0
        self.reference: Reference | None = None  # before the model is no longer the start model
        if stage.preference is not None and stage.preference.needs_reference and not stage.switches_off:
            self.reference = self._reference()
        self._resume()

    def _empty(self) -> Tensor:
        """Return zeros in the shape of one image's features, for slots without an image."""
        latents, width = self.model.latents_shape
        tower = self.model.vision_encoder
        weight = next(tower.parameters())
        patches = tower.positional_embedding.shape[0] - 1  # the class token is not a patch
        shapes = {
            "latents": (latents, width),
            "patch tokens": (1, patches, width),
            "pixels": (1, 3, *tower.image_size),
        }
        return torch.zeros(shapes[self.features.kind], dtype=weight.dtype, device=weight.device)

    def _reference(self) -> Reference:
        found = reference.read(self.folder, resumed=checkpoints.newest(self.folder) is not None)
        every = self.ranks.gather(found is not None)  # all ranks read it, or all compute it
        if found is not None and all(every):
            return found
        return reference.compute(
            self.module, self.stream, self._batch, self.folder, micro_batch=self.stage.micro_batch, ranks=self.ranks
        )

    def _resume(self) -> None:
        if self.ranks.rank == 0:
            checkpoints.sweep(self.folder)
        self.ranks.gather(None)  # no rank looks for a checkpoint before the sweep is done
        found = checkpoints.newest(self.folder)
        if found is None:
            return
        positions = found.state["positions"]
        if len(positions) != self.ranks.size:
            raise ValueError(
                f"{found} was written by {len(positions)} workers and cannot be continued by {self.ranks.size}: "
                "the data would be divided differently; use as many workers, or --fresh"
            )
        self.optimiser.load(found.load(self.tuned))
        self.position = Position(**positions[self.ranks.rank])
        self.totals = Totals.from_json(found.state["tally"])
        self.done = found.step

    def run(self) -> Totals:
        """Train the remaining epochs and write a last checkpoint.

        Raises:
            LossNotFinite: the last checkpoint is still good.
            OSError: a checkpoint could not be written.
        """
        started = time.perf_counter()
        saved = self.done
        while self.position.epoch < self.stage.epochs:
            for rows, begun in self._batches():
                self._update(rows, begun, started)
                started = time.perf_counter()
                if self.done % self.config.checkpoint_steps == 0:
                    self._save()
                    saved = self.done
            self.position = replace(self.position, epoch=self.position.epoch + 1, group=0, row=0)
        if saved != self.done or self.done == 0:
            self._save()
        return self.totals

    def _batches(self) -> Iterator[tuple[list[PackedRow], list[Packed]]]:
        """Yield this rank's rows (perhaps none) for each update of the epoch, and the groups that were begun for it."""
        mine = self.stage.batch // self.ranks.size + (self.ranks.rank < self.stage.batch % self.ranks.size)
        groups = len(self.stream.groups(self.position.epoch))
        packed = self.stream.packed(self.position.epoch, self.position.group)
        rows: list[PackedRow] = []
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
            if self.ranks.sum([len(rows)])[0] == 0:
                self._count(begun)
                return
            yield rows, begun
            rows, begun = [], []

    def _progress(self, groups: int, current: Packed | None) -> float:
        """Return the share of this rank's work that will be done after the rows taken so far."""
        part = self.position.row / len(current.rows) if current is not None and current.rows else 0.0
        done = (self.position.group + part) / groups if groups else 1.0
        return (self.position.epoch + done) / self.stage.epochs

    def _update(self, rows: list[PackedRow], begun: list[Packed], started: float) -> None:
        torch.manual_seed(self.config.seed * 1_000_003 + self.done)  # dropout, if any, is the same after a resume
        size = self.stage.micro_batch
        pieces = [rows[i : i + size] for i in range(0, len(rows), size)] or [[]]
        batches = [self._batch(piece) for piece in pieces]
        counts = self.ranks.sum(
            [
                self._share,
                len(rows),
                sum(row.samples for row in rows),
                sum(len(row.ids) for row in rows),
                sum(len(batch.broken) for batch in batches),
                *(sum(each) for each in zip(*map(self.objective.counts, batches), strict=True)),
            ]
        )
        share = counts[0] / self.ranks.size
        row_count, samples, tokens, broken = map(int, counts[1:5])
        divisors = counts[5:]
        loss, metrics, losses = self._backward(batches, divisors)
        norm = self.optimiser.norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimiser.clear()
            suspects = [row for piece, one in zip(pieces, losses, strict=False) if not one.isfinite() for row in piece]
            raise LossNotFinite(self._where(rows, suspects, loss, norm))
        rate = learning_rate(self.stage, share)
        self.optimiser.step(rate)
        self.done += 1
        self._count(begun)
        update = Update(
            step=self.done,
            epoch=share * self.stage.epochs,
            progress=share,
            loss=loss,
            accuracy=metrics[0],
            learning_rate=rate,
            gradient_norm=norm,
            rows=row_count,
            samples=samples,
            tokens=tokens,
            trained_tokens=int(divisors[0]),
            fill=tokens / max(1, row_count * self.stage.packing.window),
            seconds=time.perf_counter() - started,
            metrics=dict(zip(self.objective.metrics, metrics, strict=False)),
        )
        self.totals.add(update)
        self.totals.broken_images += broken
        self.on_update(update)

    def _backward(self, batches: list[Batch], divisors: Sequence[float]) -> tuple[float, list[float], list[Tensor]]:
        """Accumulate the gradient of all micro-batches.

        Args:
            batches: this rank's micro-batches.
            divisors: what the sums are divided by, over all ranks (`counts` of the objective).

        Returns:
            Mean loss and metrics over all ranks, and the summed loss of each micro-batch on this rank.
        """
        ranks = self.ranks
        if ranks.sharded:  # every rank must take part in the same collectives
            most = max(ranks.gather(len(batches)))
            batches = batches + [self._batch([]) for _ in range(most - len(batches))]
        if self.stage.preference is not None and "kto" in self.stage.preference.loss:
            kl = reference.kl_term(self.module, batches, ranks)
            batches = [replace(batch, kl=kl) for batch in batches]
        term_divisors = [max(1.0, divisors[place]) for place in self.objective.term_counts]
        all_divisors = term_divisors + [max(1.0, divisors[place]) for place in self.objective.metric_counts]
        weights = torch.tensor([ranks.size / divisor for divisor in term_divisors], device=ranks.device)
        sums = torch.zeros(len(all_divisors), device=ranks.device)
        losses: list[Tensor] = []
        for number, batch in enumerate(batches):
            # DDP averages gradients over the ranks in the backward pass, which only the last micro-batch needs
            local = number < len(batches) - 1 and isinstance(self.module, nn.parallel.DistributedDataParallel)
            with self.module.no_sync() if local else nullcontext():
                terms, metrics = (found.reshape(-1) for found in self.module(batch))
                (terms * weights).sum().backward()
            losses.append(terms.detach().sum())
            sums += torch.cat([terms.detach(), metrics.float()])
        means = [value / divisor for value, divisor in zip(ranks.sum(sums.tolist()), all_divisors, strict=True)]
        return sum(means[: len(term_divisors)]), means[len(term_divisors) :], losses

    def _count(self, begun: Sequence[Packed]) -> None:
        """Count what packing left out or cut, over all ranks."""
        for cut, skipped in self.ranks.gather(
            (sum(len(packed.cut) for packed in begun), [one.reason for packed in begun for one in packed.skipped])
        ):
            self.totals.cut += cut
            self.totals.skipped.update(skipped)

    def _batch(self, rows: list[PackedRow]) -> Batch:
        batch = make_batch(
            rows, self.features, empty=self.empty, pad_id=self.model.tokenizer.pad_id, device=self.ranks.device,
            pairs=self.stage.preference is not None,
        )  # fmt: skip
        return batch if self.reference is None else self.reference.given(batch)

    def _where(self, rows: list[PackedRow], suspects: list[PackedRow], loss: float, norm: float) -> str:
        """Return the error message, the same on every rank. It blames micro-batches whose own loss is not finite."""
        kept = checkpoints.newest(self.folder)
        blamed, every = zip(*self.ranks.gather((_keys(suspects), _keys(rows))), strict=True)
        keys = [key for part in (blamed if any(blamed) else every) for key in part]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return (
            f"update {self.done + 1}: loss {loss}, gradient norm {norm}, on the samples {', '.join(keys[:3])}{more}. "
            f"The update was discarded; the last good checkpoint is {kept or 'the start'}. Lower the "
            "learning rate or raise the warm-up"
        )

    def _save(self) -> None:
        """Write a checkpoint: all ranks gather, the first one writes."""
        positions = self.ranks.gather(asdict(self.position))
        tuned = {name: whole(parameter) for name, parameter in self.tuned.items()}
        optimizer = self.optimiser.state()
        state = {"positions": positions, "tally": self.totals.to_json()}
        failed = ""
        if self.ranks.rank == 0:
            try:
                self.on_save()
                checkpoints.save(self.folder, self.done, tuned, optimizer, state, keep=self.config.keep_checkpoints)
            except OSError as error:
                failed = f"update {self.done}: no checkpoint could be written: {error}"
        reasons = [reason for reason in self.ranks.gather(failed) if reason]
        if reasons:  # raised on every rank: a rank that continued alone would wait for the others forever
            raise OSError(reasons[0])


def _keys(rows: Sequence[PackedRow]) -> list[str]:
    return [key for row in rows for key in row.keys]
