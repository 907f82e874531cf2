"""One training stage in one process: loads the model, runs the loop over the data, and writes OUT/model.

Without Ray it is the whole run; with Ray, each worker runs it (`ray_trainer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import torch

from polite_flamingo.flamingo.config import FlamingoConfig
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.flamingo.model.lora import add_lora, lora_layers
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.rewriters.flamingo import choose_dtype
from polite_flamingo.storage.location import Location
from training import checkpoints
from training.data import Ingredient, LocalStream, PackedData
from training.distributed import ONE_PROCESS, Ranks
from training.freezing import freeze_untuned
from training.log import TrainingLog
from training.loop import TrainingLoop
from training.progress import Totals, Update
from training.stages import StageConfig, StageName, TrainingConfig

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


def train_stage(
    config: TrainingConfig,
    name: StageName,
    start: FlamingoConfig,
    mixture: Mapping[str, Ingredient],
    out: Location,
    ranks: Ranks = ONE_PROCESS,
    on_update: Callable[[Update], None] = lambda update: None,
    stream_of: Callable[[PackedData, int, int], LocalStream] = LocalStream,
) -> Totals:
    """Train from `start` (or the newest checkpoint in OUT/checkpoints); write the training log and OUT/model.

    Args:
        config: the `training` section of a profile.
        name: name of the stage.
        start: the model to start from.
        mixture: what to train on.
        out: the output folder, on a disk or in a bucket.
        ranks: this process among the others.
        on_update: called with each update, on every rank.
        stream_of: creates this rank's stream from the data, the rank and the number of ranks.

    Raises:
        ValueError, LossNotFinite, OSError: see `TrainingLoop` and `checkpoint.load_flamingo`.
    """
    stage = config.stage(name)
    dtype = choose_dtype(config.dtype, torch.device(ranks.device).type)
    start = opened(start)
    stage.refuse_start(start)
    model = start_model(start, stage, seed=config.seed, dtype=dtype).to(ranks.device)
    data = PackedData(
        mixture=mixture,
        packing=stage.packing,
        tokenizer=model.tokenizer,
        attention=model.attention,
        seed=config.seed,
        shards_a_group=config.shards_a_group,
        sides=stage.preference.sides if stage.preference is not None else (),
    )
    folder = out / "checkpoints"
    stream = stream_of(data, ranks.rank, ranks.size)
    found = checkpoints.newest(folder)
    with closing(TrainingLog(out, found.step if found else 0)) if ranks.rank == 0 else nullcontext() as log:

        def note(update: Update) -> None:
            if log is not None:
                log.add(update)
            on_update(update)

        flush = log.flush if log is not None else lambda: None
        totals = TrainingLoop(model, stage, stream, folder, config, dtype, ranks, note, flush).run()
    if ranks.rank == 0:
        # Loaded again: in its own precision, and whole where FSDP has sharded it.
        model = start_model(start, stage, seed=config.seed, dtype=torch.float32)
        found = checkpoints.newest(folder)
        assert found is not None
        found.load(freeze_untuned(model, stage))
        checkpoints.save_model(model, start, out / "model", tuned=stage.tune, merged=stage.fresh_lora)
    return totals


def start_model(start: FlamingoConfig, stage: StageConfig, *, seed: int, dtype: torch.dtype) -> FlamingoModel:
    """Load the model that a stage starts from, on the CPU, with LoRA attached: its own, or a new one to tune.

    With `stage.fresh_lora` its own is merged.

    Raises:
        ValueError: see `checkpoint.load_flamingo`.
    """
    model = load_flamingo(start, merge=stage.fresh_lora, dtype=dtype)
    if "lora" in stage.tune and not lora_layers(model):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_lora(model, stage.lora)
    return model
