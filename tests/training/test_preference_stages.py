"""DPO as a stage: it begins at ln 2, learns, and goes on after any interruption as if there had been none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polite_flamingo.config import fill
from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings
from polite_flamingo.flamingo.model.checkpoint import load_flamingo, save_flamingo
from polite_flamingo.packing.pack import PackingConfig
from polite_flamingo.preference.loss_config import PreferenceConfig
from polite_flamingo.storage.location import location
from tests.training.test_loop import Interrupted
from training import checkpoints, run_stage
from training.data import Ingredient
from training.preference_loss import ModelWithPreferences
from training.progress import Update
from training.run_stage import start_model, train_stage
from training.stages import StageConfig, StageName, Stages, TrainingConfig

DPO = StageConfig(
    tune=("lora",), lora=LoraSettings(r=2, alpha=2, dropout=0.5), learning_rate=0.01, batch=4, micro_batch=2, epochs=3,
    packing=PackingConfig(window=400, max_images=8, fill="best_fit", join="isolated"), preference=PreferenceConfig(),
)  # fmt: skip
SFT = replace(DPO, preference=None)


def train(
    tiny, mixture: Mapping[str, Ingredient], out: Path, *, stage: StageConfig = DPO, name: StageName = "dpo",
    start: FlamingoConfig | None = None, stop: int = 0,
) -> list[Update]:  # fmt: skip
    """Return the updates of a run, interrupted after `stop` of them."""
    config = TrainingConfig(
        base=tiny.config, stages=Stages(dpo=stage, sft=SFT), shards_a_group=2, dtype="float32", checkpoint_steps=2
    )
    updates: list[Update] = []

    def on_update(update: Update) -> None:
        updates.append(update)
        if update.step == stop:
            raise Interrupted

    with suppress(Interrupted):
        train_stage(config, name, start or config.base, mixture, location(out), on_update=on_update)
    return updates


def with_loss(**changes: object) -> StageConfig:
    return replace(DPO, preference=PreferenceConfig(**changes))


@pytest.fixture(scope="module")
def undisturbed(tiny, pair_mixture, tmp_path_factory) -> tuple[Path, list[Update]]:
    out = tmp_path_factory.mktemp("undisturbed")
    return out, train(tiny, pair_mixture, out)


def test_it_begins_at_ln_2_with_no_margin_although_the_lora_has_dropout(undisturbed) -> None:
    first = undisturbed[1][0]
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first.metrics[name] == pytest.approx(0, abs=1e-6)


def test_it_learns_to_prefer_and_counts_each_pair_once_an_epoch(undisturbed) -> None:
    updates = undisturbed[1]
    assert sum(u.samples for u in updates) == 3 * 24
    last = updates[-1]
    assert last.loss < 0.6 and last.metrics["rewards/margins"] > 0.2 and last.metrics["rewards/accuracies"] > 0.9
    assert last.metrics["rewards/chosen"] - last.metrics["rewards/rejected"] == pytest.approx(
        last.metrics["rewards/margins"], rel=1e-4
    )


def test_the_log_has_trls_metrics_by_trls_names(undisturbed) -> None:
    out, updates = undisturbed
    lines = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
    assert len(lines) == len(updates)
    wanted = {f"{kind}/{side}" for kind in ("rewards", "logps", "logits") for side in ("chosen", "rejected")}
    wanted |= {"rewards/margins", "rewards/accuracies", "entropy", "mean_token_accuracy", "loss"}
    assert wanted <= lines[0].keys() and lines[0]["accuracy"] == lines[0]["mean_token_accuracy"]
    assert lines[-1]["rewards/margins"] == updates[-1].metrics["rewards/margins"]
    events = next((out / "tensorboard").iterdir()).read_bytes()
    assert b"train/rewards/margins" in events


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_killed_run_ends_as_an_undisturbed_one(tiny, pair_mixture, tmp_path: Path, undisturbed, stop: int) -> None:
    out, expected = undisturbed
    first = train(tiny, pair_mixture, tmp_path, stop=stop)
    stored = (tmp_path / "checkpoints" / "reference.parquet").read_bytes()
    saved = stop - 1 - (stop - 1) % 2
    found = first[:saved] + train(tiny, pair_mixture, tmp_path)
    assert [u.loss for u in found] == pytest.approx([u.loss for u in expected], rel=1e-4)
    assert [u.metrics for u in found] == [pytest.approx(dict(u.metrics), rel=1e-3, abs=1e-5) for u in expected]
    assert (tmp_path / "checkpoints" / "reference.parquet").read_bytes() == stored, "computed once"
    before, after = tensors(out), tensors(tmp_path)
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    model = load_flamingo(FlamingoConfig(folder=str(out / "model")), merge=False)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_killed_while_the_reference_is_computed_it_computes_it_again(
    tiny, pair_mixture, tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = ModelWithPreferences.forward, iter(range(99))

    def interrupted(self, batch, **named):
        if next(calls) == 2:
            raise Interrupted
        return honest(self, batch, **named)

    monkeypatch.setattr(ModelWithPreferences, "forward", interrupted)
    assert train(tiny, pair_mixture, tmp_path) == []
    assert not (tmp_path / "checkpoints" / "reference.parquet").exists()
    found = train(tiny, pair_mixture, tmp_path)
    assert [u.loss for u in found] == pytest.approx([u.loss for u in undisturbed[1]], rel=1e-5)


def test_a_lost_or_foreign_reference_is_refused(tiny, pair_mixture, tmp_path: Path) -> None:
    train(tiny, pair_mixture, tmp_path, stop=3)
    file = tmp_path / "checkpoints" / "reference.parquet"
    data = file.read_bytes()
    file.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"reference\.parquet is damaged .*rerun with --fresh"):
        train(tiny, pair_mixture, tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"reference\.parquet is missing.*use --fresh"):
        train(tiny, pair_mixture, tmp_path)
    file.write_bytes(data)
    narrow = replace(DPO, packing=replace(DPO.packing, window=100))
    with pytest.raises(ValueError, match=r"reference\.parquet does not know the pair made/pairs/.*has changed"):
        train(tiny, pair_mixture, tmp_path, stage=narrow)


def test_the_adapter_switched_off_is_the_same_reference(tiny, pair_mixture, tmp_path: Path, undisturbed) -> None:
    found = train(tiny, pair_mixture, tmp_path, stage=with_loss(reference="adapter_off"))
    assert [u.loss for u in found] == pytest.approx([u.loss for u in undisturbed[1]], rel=1e-4)
    assert not (tmp_path / "checkpoints" / "reference.parquet").exists()


@pytest.mark.parametrize("changes", [
    {"loss": ("simpo",)}, {"loss": ("orpo",)}, {"loss": ("kto",)}, {"loss": ("sigmoid",), "image_anchor": 1.0},
    {"loss": ("sigmoid", "bco_pair", "sft"), "weights": (0.8, 0.2, 1.0)},
])  # fmt: skip
def test_other_losses_train_too(tiny, pair_mixture, tmp_path: Path, changes: dict[str, object]) -> None:
    stage = with_loss(**changes)
    found = train(tiny, pair_mixture, tmp_path, stage=stage)
    assert found[-1].loss < found[0].loss and found[-1].metrics["rewards/margins"] > found[0].metrics["rewards/margins"]
    assert (tmp_path / "checkpoints" / "reference.parquet").exists() == stage.preference.needs_reference


@pytest.fixture(scope="module")
def adapted(tiny, pair_mixture, tmp_path_factory) -> FlamingoConfig:
    """A start model that carries a LoRA itself, as Clever Flamingo does."""
    out = tmp_path_factory.mktemp("adapted")
    train(tiny, pair_mixture, out, name="sft")
    return FlamingoConfig(folder=str(out / "model"))


def test_a_start_model_with_a_lora_of_its_own_is_its_own_reference(tiny, pair_mixture, tmp_path: Path, adapted) -> None:
    found = train(tiny, pair_mixture, tmp_path, start=adapted)
    assert found[0].loss == pytest.approx(math.log(2), abs=1e-6) and found[-1].loss < 0.6
    with pytest.raises(ValueError, match=r"adapter_off would compare with the base model.*set fresh_lora"):
        train(tiny, pair_mixture, tmp_path / "off", start=adapted, stage=with_loss(reference="adapter_off"))


@pytest.mark.parametrize("published", [False, True], ids=["lora folder", "lora in the checkpoint"])
def test_its_lora_can_be_merged_and_a_fresh_one_trained(
    tiny, pair_mixture, tmp_path: Path, adapted, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    if published:  # as clever_flamingo.pt is
        file = tmp_path / "clever.safetensors"
        save_flamingo(load_flamingo(adapted, merge=False), file, parts=["lora"])
        checkpoint = (*tiny.config.checkpoints, str(file))
        adapted = replace(tiny.config, checkpoints=checkpoint, lora_in_checkpoint=LoraSettings(r=2, alpha=2))
    models = []

    def noted(*arguments, **settings):
        models.append(start_model(*arguments, **settings))
        return models[-1]

    monkeypatch.setattr(run_stage, "start_model", noted)
    other = LoraSettings(r=3, alpha=6, targets=("q_proj", "gate_proj"))  # not what the first adapter adapts
    stage = replace(with_loss(reference="adapter_off"), fresh_lora=True, lora=other)
    found = train(tiny, pair_mixture, tmp_path, start=adapted, stage=stage)
    assert found[0].loss == pytest.approx(math.log(2), abs=1e-6) and found[-1].loss < 0.68
    trained = dict(logits_of(models[0]))
    saved = FlamingoConfig(folder=str(tmp_path / "model"))
    for merge in (False, True):
        for name, logits in logits_of(load_flamingo(saved, merge=merge)):
            torch.testing.assert_close(logits, trained[name], rtol=1e-4, atol=1e-4)
    before = dict(logits_of(load_flamingo(adapted)))
    assert any((before[name] - logits).abs().max() > 0.05 for name, logits in trained.items())
    again = train(tiny, pair_mixture, tmp_path / "again", start=saved)
    assert again[0].loss == pytest.approx(math.log(2), abs=1e-6), "the next round starts from it"
    assert again[-1].loss < again[0].loss
    reloaded = FlamingoConfig(folder=str(tmp_path / "again" / "model"))
    base = train(tiny, pair_mixture, tmp_path / "third", start=reloaded, stop=1)
    assert base[0].loss == pytest.approx(math.log(2), abs=1e-6)


def logits_of(model) -> list[tuple[str, torch.Tensor]]:
    """Logits of two texts."""
    model.eval()
    found = []
    for text in ("What is the man doing?", "he is running"):
        ids = torch.tensor([model.tokenizer.encode(text, begin=True)])
        with torch.no_grad():
            states = model.hidden(torch.zeros(1, 1, *model.latents_shape), ids, torch.zeros_like(ids))
            found.append((text, model.lang_encoder.get_output_embeddings()(states)))
    return found


def test_a_start_model_of_nan_or_another_shape_ends_in_one_line(
    tiny, pair_mixture, tmp_path: Path, monkeypatch
) -> None:
    train(tiny, pair_mixture, tmp_path, stop=3)
    larger = replace(DPO, lora=LoraSettings(r=4, alpha=2))
    with pytest.raises(ValueError, match=r"belongs to another stage or model: .* use another --out, or --fresh"):
        train(tiny, pair_mixture, tmp_path, stage=larger)
    narrow = replace(tiny.config, perceiver=replace(tiny.config.perceiver, latents=7))
    with pytest.raises(ValueError, match="other shapes than the model"):
        train(tiny, pair_mixture, tmp_path / "narrow", start=narrow)

    def poisoned(*arguments, **settings):
        model = start_model(*arguments, **settings)
        model.lang_encoder.get_input_embeddings().weight.data.fill_(math.nan)
        return model

    monkeypatch.setattr(run_stage, "start_model", poisoned)
    with pytest.raises(
        ValueError, match=r"the start model gives the pair made/pairs/\d+ a log-probability that is NaN"
    ) as e:
        train(tiny, pair_mixture, tmp_path / "nan")
    assert "\n" not in str(e.value)
    assert checkpoints.newest(location(tmp_path / "nan" / "checkpoints")) is None


def test_supervised_stages_learn_the_chosen_answers(tiny, pair_mixture, tmp_path: Path) -> None:
    found = train(tiny, pair_mixture, tmp_path, name="sft")
    assert found[-1].loss < found[0].loss and found[0].metrics == {}
    assert sum(u.samples for u in found) == 3 * 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": PackingConfig()}, "set the packing's join to isolated"),
        ({"tune": ("perceiver",), "fresh_lora": True}, "put lora into tune"),
        (
            {"tune": ("lora", "perceiver"), "preference": PreferenceConfig(reference="adapter_off")},
            "tune to \\[lora\\]",
        ),
    ],
)
def test_an_impossible_stage_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DPO, **changes)


def test_a_profile_changes_a_part_of_the_loss_and_keeps_the_rest() -> None:
    changed = fill(Stages, {"dpo": {"preference": {"loss": ["ipo"], "beta": 0.3}, "packing": {"window": 512}}}).dpo
    assert changed.preference == PreferenceConfig(loss=("ipo",), beta=0.3)
    assert (changed.learning_rate, changed.epochs, changed.lora.r) == (5e-5, 3, 128), "the paper's"
    assert changed.packing.join == "isolated" and changed.packing.window == 512
