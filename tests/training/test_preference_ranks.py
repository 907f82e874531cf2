"""Two ranks align a model as one does, copied or sharded, with either reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.preference.loss_config import PreferenceConfig
from tests.support.train_ranks import RankJob, run_rank, run_ranks
from tests.training.test_ranks import tuned
from training.distributed import ONE_PROCESS, Parallel
from training.stages import StageConfig, Stages, TrainingConfig

STAGE = StageConfig(
    tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=4, micro_batch=1,
    packing=PackingConfig(window=400, max_images=4, fill="alone", join="isolated"), preference=PreferenceConfig(),
)  # fmt: skip
MPO = PreferenceConfig(loss=("sigmoid", "bco_pair", "sft"), weights=(0.8, 0.2, 1.0))
CASES: dict[str, tuple[Parallel, PreferenceConfig, int]] = {  # the resumed ones after their checkpoint of update 2
    "ddp, mpo, resumed": ("ddp", MPO, 4),
    "ddp, kto": ("ddp", PreferenceConfig(loss=("kto",)), 0),
    "fsdp, dpo, resumed": ("fsdp", PreferenceConfig(), 4),
    "fsdp, adapter off": ("fsdp", PreferenceConfig(loss=("kto",), reference="adapter_off"), 0),
}


@pytest.fixture(scope="module")
def runs(tiny, pair_mixture, tmp_path_factory):
    """Return the job of each case and its updates on two ranks."""
    root = tmp_path_factory.mktemp("ranks")
    jobs = {}
    for name, (parallel, preference, stop) in CASES.items():
        config = TrainingConfig(
            base=tiny.config, stages=Stages(dpo=replace(STAGE, preference=preference)), shards_a_group=2,
            dtype="float32", checkpoint_steps=2,
        )  # fmt: skip
        jobs[name] = RankJob(
            config=config, stage="dpo", mixture=pair_mixture, out=root / name, parallel=parallel, dealt=True, stop=stop
        )
    return dict(zip(jobs, zip(jobs.values(), run_ranks(2, list(jobs.values()), root), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_align_as_one_does_on_the_same_rows(runs, tmp_path: Path, name: str) -> None:
    job, together = runs[name]
    alone = run_rank(ONE_PROCESS, replace(job, out=tmp_path, stop=0))
    assert len(alone) > 5 and [u.samples for u in together] == [u.samples for u in alone]
    assert [u.loss for u in together] == pytest.approx([u.loss for u in alone], rel=1e-4)
    for one, other in zip(together, alone, strict=True):
        assert dict(one.metrics) == pytest.approx(dict(other.metrics), rel=1e-3, abs=1e-4)
    assert alone[-1].metrics["rewards/margins"] > 0.01
    expected, found = tuned(tmp_path), tuned(job.out)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)
    assert (job.out / "checkpoints" / "reference.parquet").exists() == (CASES[name][1].reference == "precomputed")
