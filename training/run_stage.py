"""One stage in one process, from the model it starts with to the folder it leaves. Ray only decides how many run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.flamingo.model.lora import add_lora, lora_layers
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.rewriters.flamingo import choose_dtype
from training import checkpoints
from training.distributed import ALONE, World
from training.loop import LoopConfig, Stream, Tally, Update, fit
from training.stages import StageConfig, StageName, TrainingConfig
from training.step import prepare

# isort: split
import torch

StreamOf = Callable[[FlamingoModel, World], Stream]
"""Makes a rank's stream for a model, whose tokenizer and attention semantics decide the rows."""


def train_stage(
    config: TrainingConfig,
    name: StageName,
    start: FlamingoConfig,
    stream_of: StreamOf,
    out: Path,
    world: World = ALONE,
    on_update: Callable[[Update], None] = lambda update: None,
) -> Tally:
    """Train from `start` (or the newest checkpoint in OUT/checkpoints) and write OUT/model.

    Raises:
        ValueError, LossNotFinite, OSError: see `loop.fit` and `checkpoint.load_flamingo`.
    """
    stage = config.stage(name)
    dtype = choose_dtype(config.dtype, torch.device(world.device).type)
    start = opened(start)
    model = start_model(start, stage, seed=config.seed, dtype=dtype).to(world.device)
    loop = LoopConfig(
        checkpoint_steps=config.checkpoint_steps,
        keep_checkpoints=config.keep_checkpoints,
        features_bytes=config.features_bytes,
        gradient_checkpointing=config.gradient_checkpointing,
        dtype=dtype,
        seed=config.seed,
    )
    folder = out / "checkpoints"
    tally = fit(model, stage, stream_of(model, world), folder, loop, world, on_update)
    if world.rank == 0:
        # The base in its own precision, and whole where FSDP has cut it up.
        model = start_model(start, stage, seed=config.seed, dtype=torch.float32)
        found = checkpoints.newest(folder)
        assert found is not None
        found.load(prepare(model, stage))
        checkpoints.save_model(model, start, out / "model", tuned=stage.tune)
    return tally


def start_model(start: FlamingoConfig, stage: StageConfig, *, seed: int, dtype: torch.dtype) -> FlamingoModel:
    """The model that a stage starts from, on the CPU, with LoRA attached: its own, or a fresh one to be tuned.

    Raises:
        ValueError: see `checkpoint.load_flamingo`.
    """
    model = load_flamingo(start, merge=False, dtype=dtype)
    if "lora" in stage.tune and not lora_layers(model):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_lora(model, stage.lora)
    return model
