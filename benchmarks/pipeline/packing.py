"""The gains of packing over one sample per row in training, and of caching the features of frozen images.

    python -m benchmarks.pipeline.packing --profile profiles/tiny.yaml [--stages NAME …] [--runs 5] [--out FILE]

Samples are generated from Shapes with a seed: for a LoRA stage texts, LLaVA-like conversations and polite answers about
pictures, as mixed in the paper; for a connector stage only the last. All contestants train on the same samples, with
the same window and the same tokens per micro-batch, including padding (the stage's rows times its window):

    padded to the window    one sample per row, as many rows per micro-batch as packed ones
    padded to the longest   one sample per row, in shuffled order, as many rows as fit the tokens when padded to the
                            longest of the micro-batch: the fairer baseline
    random, best fit        ours; samples are turns of one conversation (multi_turn) or do not see each other
                            (isolated); rows come in any order, or sorted into similar lengths (by length)

A run is one pass over all samples with the trainer's own step: building tensors, forward, backward. The optimiser's
update is left out, because contestants with fewer micro-batches would do fewer. Image features are cached, so encoding
is left out too and measured separately: rows of best fit, multi_turn, with cached features, and with every image
encoded in each micro-batch that shows it. Runs take turns; medians are printed; ratios are medians of each round's
ratios. Last, rows are only packed, from as many samples as a group of shards may have.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from polite_flamingo.packing.chat_turns import ResponseChoice
from polite_flamingo.packing.pack import Packed, PackedRow, PackingConfig, pack
from polite_flamingo.rewriters.flamingo import choose_dtype
from polite_flamingo.sample import Image, Sample, Turn, make_key
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.testbed.shapes.draw import draw
from polite_flamingo.testbed.shapes.instruct import write_instruct
from polite_flamingo.testbed.zoo.pairs import random_pair
from ray_jobs import console
from training.features import Features
from training.freezing import freeze_untuned
from training.loss import Batch, ModelWithLoss, make_batch
from training.run_stage import start_model
from training.stages import StageConfig, TrainingConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

WINDOW, LONGEST = "one per row, padded to the window", "one per row, padded to the longest"
SHARE, TIMES = 0.97, 3.0
"""Goals: share of non-padding tokens with best fit, and trained tokens/s relative to one sample per row."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The section of the profile that is read."""

    training: TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Rows in micro-batches; each is padded to `width` tokens, or to its longest row if 0."""

    micro_batches: list[list[PackedRow]]
    isolated: bool
    width: int = 0

    @property
    def rows(self) -> list[PackedRow]:
        """All of them."""
        return [row for rows in self.micro_batches for row in rows]

    def non_padding(self) -> float:
        """Non-padding tokens as a share of all tokens that run."""
        run = sum(len(rows) * (self.width or max(len(row.ids) for row in rows)) for rows in self.micro_batches)
        return sum(len(row.ids) for row in self.rows) / run


def main() -> None:
    """Generate and pack the samples, let the contestants take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="profiles/tiny.yaml")
    parser.add_argument(
        "--stages", nargs="+", default=["clever-1", "clever-2"], help="training stages of the profile (%(default)s)"
    )
    parser.add_argument("--samples", type=int, default=240, help="approximate number per stage (%(default)s)")
    parser.add_argument("--group", type=int, default=2000, help="samples that are only packed (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs per measurement; medians are reported (%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="use cpu on a shared machine")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = console.parse("packing", "", Config, ["--profile", options.profile]).training
    lines: list[str] = []
    for part in chain([head(options)], (measure(name, config.stage(name), config, options) for name in options.stages)):
        print("\n".join(part), flush=True)
        lines += part
        if options.out:  # after each stage, so an interrupted run loses nothing
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text("\n".join(lines) + "\n")


def head(options: argparse.Namespace) -> list[str]:
    """Describe the machine, the libraries and the command."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return [
        f"# Packing, {time.strftime('%Y-%m-%d')}",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), {options.threads} threads, load {os.getloadavg()[0]:.1f} "
        f"at the start; {versions}. {options.runs} runs, {options.clock} time.",
        f"`python -m benchmarks.pipeline.packing {shlex.join(sys.argv[1:])}`",
    ]


def measure(name: str, stage: StageConfig, config: TrainingConfig, options: argparse.Namespace) -> list[str]:
    """Format the tables of one stage."""
    dtype = choose_dtype(config.dtype, "cpu")
    model = start_model(config.base, stage, seed=0, dtype=dtype)
    tuned = freeze_untuned(model, stage)
    samples, choices = shapes_samples(stage, options.samples)
    every = contestants(stage, model, samples, choices)
    seconds, trained = take_turns(model, stage, dtype, every, options)
    packing = stage.packing
    lines = [
        "",
        f"## {name}: window {packing.window}, at most {packing.max_images} images, {len(samples)} samples",
        "",
        f"Micro-batches of {stage.micro_batch} x {packing.window} tokens; {len(tuned)} tensors learn, {dtype}.",
        "",
        "| rows | rows | micro-batches | non-padding, of the window | non-padding, as run | trained tokens | seconds "
        "| trained tokens/s | × padded to the window | × padded to the longest |",
        "|" + "---|" * 10,
    ]
    for label, one in every.items():
        rows = one.rows
        share = sum(len(row.ids) for row in rows) / (len(rows) * packing.window)
        rates = [trained[label] / found for found in seconds[label]]
        ratios = [
            statistics.median(
                trained[label] / mine / (trained[other] / theirs)
                for mine, theirs in zip(seconds[label], seconds[other], strict=True)
            )
            for other in (WINDOW, LONGEST)
        ]
        lines.append(
            f"| {label} | {len(rows)} | {len(one.micro_batches)} | {share:.1%} | {one.non_padding():.1%} "
            f"| {trained[label]} | {statistics.median(seconds[label]):.2f} | {statistics.median(rates):.0f} "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    without = [off / on for off, on in zip(seconds["features off"], seconds["features on"], strict=True)]
    images = [image for row in every["best_fit, multi_turn"].rows for image in row.images]
    kept = "perceiver latents" if "perceiver" not in stage.tune else "patch tokens"
    lines += [
        "",
        f"Features of frozen images ({kept}), {len(images)} images shown, {len(set(images))} of them different: time "
        f"with every one encoded when shown, over time with all kept: **{statistics.median(without):.2f}** "
        f"({min(without):.2f} to {max(without):.2f}).",
        "",
        f"Goals: at least {SHARE:.0%} non-padding and {TIMES:g} times the trained tokens/s, with best fit.",
    ]
    return lines + group(stage, model, options.group)


def group(stage: StageConfig, model: FlamingoModel, count: int) -> list[str]:
    """Format the table of rows that are only packed."""
    samples, choices = shapes_samples(stage, count)
    lines = [
        "",
        f"A group of {len(samples)} samples, only packed:",
        "",
        "| rows | rows | non-padding, of the window | non-padding, as run | rows with all the images they may have "
        "| least rows possible |",
        "|" + "---|" * 6,
    ]
    for label, packed in every_packing(stage, model, samples, choices).items():
        images = sum(len(row.images) for row in packed.rows)
        most = stage.packing.max_images
        full = sum(len(row.images) == most for row in packed.rows) / len(packed.rows)
        least = max(-(-packed.tokens // packed.window), -(-images // most))
        run = Contestant(micro_batches=cut(packed.rows, stage.micro_batch), isolated=False).non_padding()
        lines.append(f"| {label} | {len(packed.rows)} | {1 - packed.padding:.1%} | {run:.1%} | {full:.0%} | {least} |")
    return lines


def shapes_samples(stage: StageConfig, count: int) -> tuple[list[Sample], list[ResponseChoice]]:
    """Generate samples for a stage of this kind."""
    return conversations(count) if "lora" in stage.tune else answers(count)


def conversations(count: int) -> tuple[list[Sample], list[ResponseChoice]]:
    """Mix like the paper's stages 1 and 3: texts, LLaVA-like conversations, and a tenth answers about pictures."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="benchmark_packing_") as made:
        written = write_instruct(Path(made), samples=max(1, round(0.9 * count / 5)), seed="packing")
        for name, source in written.sources.items():
            samples += [row for row in SOURCES[name].read(source) if isinstance(row, Sample)]
    more, choices = answers(max(1, count // 10))
    return [*samples, *more], [ResponseChoice()] * len(samples) + choices


def answers(count: int) -> tuple[list[Sample], list[ResponseChoice]]:
    """Generate samples like PF-1M's: instructions about pictures, answered politely."""
    rng = random.Random("packing")
    samples = []
    for number in range(count):
        pair = random_pair(rng)
        pictures = []
        for scene in pair.scenes:
            buffer = io.BytesIO()
            draw(scene).save(buffer, "JPEG")
            pictures.append(Image(extension="jpg", data=buffer.getvalue()))
        samples.append(
            Sample(
                key=make_key("pairs", "train", number), dataset="pairs", task=pair.task,
                turns=(Turn(instruction=pair.instruction, response=pair.raw),), rewritten=pair.polite,
                images=tuple(pictures),
            )
        )  # fmt: skip
    return samples, [ResponseChoice(response="rewritten")] * count


def contestants(
    stage: StageConfig, model: FlamingoModel, samples: Sequence[Sample], choices: Sequence[ResponseChoice]
) -> dict[str, Contestant]:
    """Make rows of the same samples in every way."""

    packings = every_packing(stage, model, samples, choices)
    alone = packings["alone"].rows
    window = stage.packing.window
    every = {
        WINDOW: Contestant(micro_batches=cut(alone, stage.micro_batch), isolated=False, width=window),
        LONGEST: Contestant(micro_batches=cut_by_tokens(alone, stage.micro_batch * window), isolated=False),
    }
    for label, packed in packings.items():
        if label != "alone":
            every[label] = Contestant(micro_batches=cut(packed.rows, stage.micro_batch), isolated="isolated" in label)
    return every


def every_packing(
    stage: StageConfig, model: FlamingoModel, samples: Sequence[Sample], choices: Sequence[ResponseChoice]
) -> dict[str, Packed]:
    """Cut the rows of every kind into micro-batches."""

    def packed(**changes: Any) -> Packed:
        config: PackingConfig = replace(stage.packing, **changes)
        found = pack(samples, model.tokenizer, config, model.attention, random.Random(0), choices)
        assert not found.skipped, found.skipped[0]
        return found

    shared = {
        f"{fill}, {join}": packed(fill=fill, join=join)
        for fill in ("random", "best_fit")
        for join in ("isolated", "multi_turn")
    }
    ordered = {
        f"{join}, by length": packed(fill="best_fit", join=join, group_by_length=True)
        for join in ("isolated", "multi_turn")
    }
    return {
        "alone": packed(fill="alone"),
        **shared,
        **{f"best_fit, {label}": found for label, found in ordered.items()},
    }


def cut(rows: Sequence[PackedRow], count: int) -> list[list[PackedRow]]:
    """Take `count` rows at a time."""
    return [list(rows[start : start + count]) for start in range(0, len(rows), count)]


def cut_by_tokens(rows: Sequence[PackedRow], tokens: int) -> list[list[PackedRow]]:
    """Take as many rows at a time as fit the tokens when padded to the longest."""
    found: list[list[PackedRow]] = [[]]
    for row in rows:
        if found[-1] and (len(found[-1]) + 1) * max(len(one.ids) for one in (*found[-1], row)) > tokens:
            found.append([])
        found[-1].append(row)
    return found


def take_turns(
    model: FlamingoModel,
    stage: StageConfig,
    dtype: torch.dtype,
    every: dict[str, Contestant],
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each contestant's runs, and how many tokens each trains."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    kept, encoded = Features(model, 4 << 30), Features(model, 0)
    best = every["best_fit, multi_turn"]
    plan = [(label, one, kept) for label, one in every.items()]
    plan += [("features on", best, kept), ("features off", best, encoded)]
    seconds: dict[str, list[float]] = defaultdict(list)
    trained: dict[str, int] = {}
    for number in range(options.runs + 1):  # the first round, which also fills the feature cache, does not count
        for label, one, features in plan:
            started = clock()
            trained[label] = run(model, one, features, dtype)
            if number:
                seconds[label].append(clock() - started)
        print(f"round {number} of {options.runs} done", file=sys.stderr, flush=True)
    return seconds, trained


def run(model: FlamingoModel, contestant: Contestant, features: Features, dtype: torch.dtype) -> int:
    """Do one pass, drop its gradients, and return the number of trained tokens."""
    step = ModelWithLoss(model, isolated=contestant.isolated, dtype=dtype)
    latents, width = model.latents_shape
    patches = model.vision_encoder.positional_embedding.shape[0] - 1  # without the class token
    shape = (latents, width) if features.latents else (1, patches, width)
    empty = torch.zeros(shape, dtype=next(model.vision_encoder.parameters()).dtype)
    trained = 0
    for rows in contestant.micro_batches:
        batch = make_batch(rows, features, empty=empty, pad_id=model.tokenizer.pad_id, device="cpu")
        loss, _ = step(widened(batch, contestant.width, model.tokenizer.pad_id))
        loss.backward()
        trained += int(batch.loss_mask_BS[:, 1:].sum())
    model.zero_grad(set_to_none=True)
    return trained


def widened(batch: Batch, width: int, pad_id: int) -> Batch:
    """Pad to `width` tokens."""
    more = (0, max(0, width - batch.ids_BS.shape[1]))
    return replace(
        batch,
        ids_BS=F.pad(batch.ids_BS, more, value=pad_id),
        loss_mask_BS=F.pad(batch.loss_mask_BS, more, value=False),
        image_numbers_BS=F.pad(batch.image_numbers_BS, more),
        sample_index_BS=F.pad(batch.sample_index_BS, more, value=-1),
    )


if __name__ == "__main__":
    main()
