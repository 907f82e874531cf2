"""Several ranks reach the same weights as one, whether the model is copied or sharded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.storage.location import location
from tests.support.train_ranks import RankJob, run_rank, run_ranks
from training import checkpoints
from training.distributed import ONE_PROCESS
from training.stages import CONNECTOR, StageConfig, Stages, TrainingConfig

PACKING = PackingConfig(window=160, max_images=4, fill="alone")  # 12 rows per group, which divide evenly
STAGES = Stages(
    clever_1=StageConfig(
        tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=4, micro_batch=1, packing=PACKING
    ),
    clever_2=StageConfig(tune=CONNECTOR, learning_rate=0.005, batch=4, micro_batch=2, packing=PACKING),
)
CASES = {  # the last one is interrupted after its checkpoint of update 4
    "ddp, connector": ("ddp", "clever-2", 0),
    "fsdp, connector": ("fsdp", "clever-2", 0),
    "fsdp, lora, resumed": ("fsdp", "clever-1", 6),
}


def tuned(out: Path) -> dict[str, torch.Tensor]:
    found = checkpoints.newest(location(out) / "checkpoints")
    assert found is not None
    return load(found.read(found.tuned))


@pytest.fixture(scope="module")
def runs(tiny, mixture, tmp_path_factory):
    """Return the job of each case and its updates on two ranks."""
    root = tmp_path_factory.mktemp("ranks")
    config = TrainingConfig(base=tiny.config, stages=STAGES, shards_a_group=2, dtype="float32", checkpoint_steps=4)
    jobs = {
        name: RankJob(
            config=config, stage=stage, mixture=mixture, out=root / name, parallel=parallel, dealt=True, stop=stop
        )
        for name, (parallel, stage, stop) in CASES.items()
    }
    return dict(zip(jobs, zip(jobs.values(), run_ranks(2, list(jobs.values()), root), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_does_on_the_same_rows(runs, tmp_path: Path, name: str) -> None:
    job, together = runs[name]
    alone = run_rank(ONE_PROCESS, replace(job, out=tmp_path, stop=0))
    assert len(alone) > 5 and [u.samples for u in together] == [u.samples for u in alone]
    assert [u.trained_tokens for u in together] == [u.trained_tokens for u in alone]
    assert [u.learning_rate for u in together] == pytest.approx([u.learning_rate for u in alone])
    assert [u.loss for u in together] == pytest.approx([u.loss for u in alone], rel=1e-4)
    assert [u.gradient_norm for u in together] == pytest.approx([u.gradient_norm for u in alone], rel=1e-3)
    expected, found = tuned(tmp_path), tuned(job.out)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)
    assert (job.out / "model" / "flamingo.yaml").exists(), "rank 0 leaves the whole model"
