"""Training on one GPU at the size of OpenFlamingo-9B: stage 1 (LoRA) and stage 2 (connector), without Ray.

    python -m benchmarks.gpu.train [--out FILE] [--semantics v1] [--budget-seconds 540]
    python -m benchmarks.gpu.train --shape tiny --device cpu       # checks that the program works, nothing else

Weights are random and made on the device, rows are full of random tokens, images are features in memory, as the trainer
keeps them: perceiver latents where only LoRA learns, patch tokens where the perceiver does. Each run is one micro-batch
by the trainer's own step: making tensors, forward, backward; the optimiser's update is measured separately and spread
over the micro-batches of the paper's batch. Medians are printed, with the number of runs.

Three shares of the measured ceiling of matrix products are printed. With N weights of the language model that multiply
(the embeddings only look up) and T tokens:

    MFU         the operations that the step needs, counted by torch's own counter on a row without checkpointing. For
                LoRA about 4 N T: 2 N T forward and 2 N T for the gradients of activations. Frozen weights have no
                gradient, which would be 2 N T more. Includes cross-attention, perceiver, the output head where it runs,
                and the trained weights.
    6 N T       the usual figure, as if every weight were trained: too favourable here, for comparison only.
    executed    everything that the step runs, including the second forward of gradient checkpointing.

The counter counts the products of attention over the whole square, of which half is masked (at 1024 tokens some 2 % of
the step). Written without a GPU: until `benchmarks/results` has a report of one, nothing here is measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.measures import timed
from benchmarks.gpu.model import SHAPES, Ids, build
from benchmarks.gpu.report import Report, goal
from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.engine.roofline import measure
from polite_flamingo.flamingo.model.lora import add_lora
from polite_flamingo.packing.chat_turns import EncodedTurn, image_numbers
from polite_flamingo.packing.pack import PackedRow, PackingConfig
from training.freezing import freeze_untuned
from training.loss import ModelWithLoss, make_batch
from training.optimiser import Optimiser
from training.stages import CONNECTOR, StageConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

LORA = StageConfig(tune=("lora",), lora=LoraSettings(r=64, alpha=16))
CONNECT = StageConfig(tune=CONNECTOR, batch=1024, packing=PackingConfig(window=196, max_images=3))
GOAL = 0.40
"""MFU of stage 1 on an H200."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A stage as the paper trained it (arXiv 2307.01003, table of hyper-parameters), and how it is measured here."""

    name: str
    samples: int
    epochs: int
    window: int
    hours: float
    like: str


SCHEDULE = (
    Schedule(name="Polite Flamingo", samples=255_000, epochs=3, window=1024, hours=11.8, like="stage 1"),
    Schedule(name="Clever stage 1", samples=772_000, epochs=1, window=1024, hours=11.8, like="stage 1"),
    Schedule(name="Clever stage 2", samples=1_070_000, epochs=3, window=196, hours=9.5, like="stage 2"),
    Schedule(name="Clever stage 3", samples=772_000, epochs=1, window=1024, hours=11.5, like="stage 1"),
)
GPUS = 8
"""Number of A100-40GB behind the paper's hours."""


@dataclass(frozen=True, kw_only=True)
class Filling:
    """Contents of the rows; everything except the window and its images is assumed.

    Attributes:
        stage: the training stage.
        turns: samples per row.
        images: images per row, shown by the first turns.
        learned: share of a turn's tokens that is its response.
    """

    stage: StageConfig
    turns: int
    images: int
    learned: float = 0.4


STAGES = {
    "stage 1": Filling(stage=LORA, turns=6, images=4),
    "stage 2": Filling(stage=CONNECT, turns=3, images=3),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of a stage at one number of rows.

    Attributes:
        seconds: seconds per micro-batch.
        update: seconds per update of the optimiser.
        needed: operations per row.
        executed: the same, including what checkpointing runs again.
        quoted: 6 N T per row.
    """

    stage: str
    rows: int
    window: int
    checkpointing: bool
    seconds: float
    update: float
    needed: float
    executed: float
    quoted: float
    runs: int
    peak: str

    @property
    def rate(self) -> float:
        """Tokens per second, including a share of the update."""
        batch = STAGES[self.stage].stage.batch
        return self.rows * self.window / (self.seconds + self.update * self.rows / batch)

    def share(self, operations: float, limit: float) -> float:
        """Share of the ceiling, at this many operations per row."""
        return operations / self.window * self.rate / limit


class Known:
    """Image features that are already cached, like the trainer's `Features` after an image's first use."""

    def __init__(self, feature: Tensor):
        self._feature = feature

    def get(self, images: Sequence[bytes]) -> list[Tensor]:
        """Return the same features for every image."""
        return [self._feature] * len(images)


def main() -> None:
    """Measure within the budget, print along the way, write the file after each stage."""
    options = arguments()
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype)
    report = Report(options, device, title="Training", module="gpu.train")
    deadline = time.monotonic() + options.budget_seconds
    limit = measure(device, dtype).flops
    report.say("", f"Matrix products, {options.dtype}: {limit / 1e12:.1f} TFLOP/s measured.")
    found: list[Measured] = []
    for name in STAGES:
        bench = Bench(name, options, device, dtype)
        report.say("", f"{name}: {bench.numbers}")
        for checkpointing in (True, False):
            found += bench.measure(checkpointing, lambda: time.monotonic() < deadline)
        del bench
        if device.type == "cuda":
            torch.cuda.empty_cache()
        table(report, [one for one in found if one.stage == name], name, limit)
        report.write()
    forecast(report, found, options, limit)
    report.write()


def arguments() -> argparse.Namespace:
    """Parse the command line; default sizes depend on the shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="9b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--semantics", choices=("v1", "v2"), default="v1", help="version of attention (%(default)s)")
    parser.add_argument(
        "--rows", type=int, nargs="+", help="rows per micro-batch of stage 1; 4 times as many in stage 2"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs per measurement, for the median (%(default)s)")
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="start no run after this (%(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    if options.rows is None:
        options.rows = [4, 8, 16] if options.shape == "9b" else [1, 2]
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; to check the program without one, use --shape tiny --device cpu")
    return options


class Bench:
    """A model prepared for one stage."""

    def __init__(self, name: str, options: argparse.Namespace, device: torch.device, dtype: torch.dtype):
        self.name, self.options, self.device, self.dtype = name, options, device, dtype
        self.filling = STAGES[name]
        shape = SHAPES[options.shape]
        # A tiny shape has no window of 1024; an eighth of each will do to show that the program works.
        window = self.filling.stage.packing.window
        self.window = window if options.shape == "9b" else window // 8
        self.model: FlamingoModel = build(shape, options.semantics, device, dtype)
        if "lora" in self.filling.stage.tune:
            add_lora(self.model, self.filling.stage.lora)
            self.model.to(device)
        self.tuned = freeze_untuned(self.model, self.filling.stage)
        self.step = ModelWithLoss(self.model, isolated=False, dtype=dtype)
        self.optimiser = Optimiser(self.filling.stage, self.tuned)
        latents, width = self.model.latents_shape
        patches = self.model.vision_encoder.positional_embedding.shape[0] - 1  # without the class token
        feature = (latents, width) if "lora" in self.filling.stage.tune else (1, patches, width)
        self.features = Known(torch.randn(feature, device=device).to(dtype))
        self.empty = torch.zeros(feature, device=device, dtype=dtype)

    @property
    def numbers(self) -> str:
        """Count the weights and the trained ones."""
        learned = sum(one.numel() for one in self.tuned.values())
        return f"{sum(one.numel() for one in self.model.parameters()):,} parameters, of which {learned:,} learn."

    def multiplied(self) -> int:
        """Count the language model's weights that multiply: its layers and its output head, without LoRA."""
        layers = self.model.lang_encoder._get_decoder_layers()
        inner = sum(
            one.numel()
            for layer in layers
            for name, one in layer.decoder_layer.named_parameters()
            if "lora" not in name and one.ndim > 1
        )
        return inner + self.model.lang_encoder.get_output_embeddings().weight.numel()

    def measure(self, checkpointing: bool, has_time: object) -> list[Measured]:
        """Measure each number of rows that fits."""
        assert callable(has_time)
        needed = self.operations(False)
        executed = self.operations(checkpointing)
        self._checkpoint(checkpointing)
        found = []
        for count in self.options.rows:
            rows = [self.row(seed) for seed in range(count if self.name == "stage 1" else 4 * count)]
            seconds: list[float] = []
            updates: list[float] = []
            self._reset_peak()
            try:
                while len(seconds) <= self.options.runs and has_time():
                    seconds.append(timed(self.device, lambda rows=rows: self.run(rows)))  # type: ignore[misc]
                    updates.append(timed(self.device, self.update))
            except torch.OutOfMemoryError:
                self.optimiser.clear()
                break
            if len(seconds) > 1:  # the first, which allocates, is not counted
                found.append(
                    Measured(
                        stage=self.name, rows=len(rows), window=self.window, checkpointing=checkpointing,
                        seconds=statistics.median(seconds[1:]), update=statistics.median(updates[1:]),
                        needed=needed, executed=executed, quoted=6.0 * self.multiplied() * self.window,
                        runs=len(seconds) - 1, peak=self._peak(),
                    )
                )  # fmt: skip
        return found

    def run(self, rows: Sequence[PackedRow]) -> None:
        """One micro-batch."""
        batch = make_batch(
            rows, self.features, empty=self.empty, pad_id=self.model.tokenizer.pad_id, device=str(self.device)
        )
        loss, _ = self.step(batch)
        (loss / max(1, int(batch.loss_mask_BS.sum()))).backward()

    def update(self) -> None:
        """Run one step of the optimiser."""
        self.optimiser.norm()
        self.optimiser.step(self.filling.stage.learning_rate)

    def operations(self, checkpointing: bool) -> float:
        """Count the operations of one row, forward and backward, while it runs."""
        self._checkpoint(checkpointing)
        with FlopCounterMode(display=False) as counter:
            self.run([self.row(0)])
        self.optimiser.clear()
        return counter.get_total_flops()

    def row(self, seed: int) -> PackedRow:
        """Return a full row: each turn shows its images, if any, and has a question and an answer."""
        tokenizer = self.model.tokenizer
        assert isinstance(tokenizer, Ids)
        rng = random.Random(seed)
        row = PackedRow()
        for number in range(self.filling.turns):
            length = self.window // self.filling.turns
            if number == 0:
                length += self.window % self.filling.turns
            each, more = divmod(self.filling.images, self.filling.turns)
            images = each + (number < more)
            learned = round(self.filling.learned * length)
            shown = [tokenizer.image_id, tokenizer.end_of_chunk_id] * images
            prompt = [*shown, *tokenizer.words(rng, length - learned - len(shown))]
            target = [*tokenizer.words(rng, learned - 1), tokenizer.eos_id]
            turn = EncodedTurn(prompt, target, images)
            numbers = image_numbers([turn], tokenizer.image_id, self.options.semantics)
            row.image_numbers += [one + len(row.images) if one else 0 for one in numbers]
            row.ids += [*prompt, *target]
            row.loss_mask += [False] * len(prompt) + [True] * len(target)
            row.sample_index += [number] * length
            row.images += [b""] * images
            row.keys.append(str(number))
        return row

    def _checkpoint(self, wanted: bool) -> None:
        if wanted:
            self.model.lang_encoder.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.lang_encoder.gradient_checkpointing_disable()

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> str:
        return f"{torch.cuda.max_memory_allocated(self.device) / 1e9:.1f}" if self.device.type == "cuda" else "–"


def table(report: Report, found: Sequence[Measured], name: str, limit: float) -> None:
    """Report the measurements of a stage."""
    filling = STAGES[name]
    rows = [
        f"{one.rows} × {one.window} | {'yes' if one.checkpointing else 'no'} | {one.seconds:.3f} | {one.update:.3f} "
        f"| {one.rate:.0f} | {one.share(one.needed, limit):.1%} | {one.share(one.quoted, limit):.1%} "
        f"| {one.share(one.executed, limit):.1%} | {one.peak} | {one.runs}"
        for one in found
    ]
    head = "micro-batch | checkpointing | s | s an update | tokens/s | MFU | 6 N T | executed | peak GB | runs"
    report.table(f"{name}: {' and '.join(filling.stage.tune)}", head, rows)
    for one in found[:1]:
        report.say(
            "",
            f"A row has {filling.turns} samples, {filling.images} images and {filling.learned:.0%} learned tokens "
            f"(assumed); it needs {one.needed / 1e12:.4g} TFLOP, 6 N T is {one.quoted / 1e12:.4g}.",
        )
    report.say("", "Missing micro-batches did not fit the memory or the budget.")


def forecast(report: Report, found: Sequence[Measured], options: argparse.Namespace, limit: float) -> None:
    """Forecast the hours of the paper's schedule, and report the goal."""
    real = options.device.startswith("cuda") and options.shape == "9b"
    best = {
        name: max((one for one in found if one.stage == name), key=lambda m: m.rate, default=None) for name in STAGES
    }
    rows = []
    for plan in SCHEDULE:
        one = best[plan.like]
        if one is None:
            rows.append(f"{plan.name} | – | not measured | – | {plan.hours} | –")
            continue
        tokens = plan.samples * plan.epochs * plan.window
        hours = tokens / one.rate / 3600
        once = hours / STAGES[plan.like].turns
        times = f"{GPUS * plan.hours / hours:.2f}" if real else "–"
        rows.append(f"{plan.name} | {tokens / 1e6:,.0f} | {hours:,.1f} | {once:,.1f} | {plan.hours} | {times}")
    device = "this GPU" if real else "this device at this shape (no forecast for a GPU)"
    head = (
        f"stage | million tokens | hours on {device}, one row per sample | hours, each sample once "
        f"| the paper's, {GPUS} A100-40GB | times one A100"
    )
    report.table("Forecast for the paper's schedule", head, rows)
    turns = ", ".join(f"{filling.turns} in {name}" for name, filling in STAGES.items())
    report.say(
        "",
        "One row per sample: the reference fills a row of the full window for every sample and epoch, with others "
        "sampled again; all are assumed to be full, which its limits do not always allow. Each sample once: as many "
        f"share a row as assumed above ({turns}). Reading, packing, decoding and encoding of images are not in it. "
        "The last column compares the first forecast with the paper's hours.",
    )
    if not real:
        report.say("", "The goal is for an H200 at the shape `9b`: not measured here.")
        return
    first = best["stage 1"]
    mfu = first.share(first.needed, limit) if first else None
    report.table(
        "Goal, set for an H200", "what | goal | measured | reached", [goal("MFU of stage 1", mfu, GOAL, "{:.1%}")]
    )


if __name__ == "__main__":
    main()
