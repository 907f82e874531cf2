"""Two runs give the same result, and so does an interrupted one."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings
from polite_flamingo.flamingo.model.checkpoint import load_flamingo
from polite_flamingo.flamingo.model.saved import opened
from polite_flamingo.packing.pack import Packed, PackingConfig
from polite_flamingo.storage.location import Location, location
from ray_jobs.train import summary
from training import checkpoints, loop, run_stage
from training.data import Ingredient, LocalStream
from training.loop import LossNotFinite
from training.loss import Batch, ModelWithLoss, make_batch
from training.optimiser import learning_rate
from training.progress import Totals, Update
from training.run_stage import start_model, train_stage
from training.stages import CONNECTOR, StageConfig, StageName, Stages, TrainingConfig

PACKING = PackingConfig(window=160, max_images=4)
LORA = StageConfig(
    tune=("lora",), lora=LoraSettings(r=2, alpha=2), learning_rate=0.02, batch=3, micro_batch=2, epochs=2,
    packing=PACKING,
)  # fmt: skip
TUNED = StageConfig(tune=CONNECTOR, learning_rate=0.01, batch=4, micro_batch=4, packing=PACKING, optimizer="muon")


class Interrupted(Exception):
    """A test pulls the plug."""


def train(
    tiny, mixture: Mapping[str, Ingredient], out: Path | Location, *, name: StageName = "clever-1", stop: int = 0,
    start: FlamingoConfig | None = None, stream_of: type[LocalStream] = LocalStream, **changes: object,
) -> tuple[list[Update], Totals | None]:  # fmt: skip
    """Return the updates of a run, interrupted after `stop` of them."""
    usual = {"checkpoint_steps": 2, "stages": Stages(clever_1=LORA, clever_2=TUNED)}
    config = TrainingConfig(base=tiny.config, shards_a_group=2, dtype="float32", **(usual | changes))
    updates: list[Update] = []

    def on_update(update: Update) -> None:
        updates.append(update)
        if update.step == stop:
            raise Interrupted

    try:
        return updates, train_stage(
            config, name, start or config.base, mixture, location(out), on_update=on_update, stream_of=stream_of
        )
    except Interrupted:
        return updates, None


def order(updates: list[Update]) -> list[tuple[float, ...]]:
    """Return the samples of each update."""
    return [(u.step, u.progress, u.learning_rate, u.samples, u.tokens, u.trained_tokens) for u in updates]


def losses(updates: list[Update]) -> object:
    """Return losses to compare: without the cache, images are encoded in other batches and round differently."""
    return pytest.approx([u.loss for u in updates], rel=1e-4)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    model = load_flamingo(FlamingoConfig(folder=str(folder)), merge=False)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def undisturbed(tiny, mixture, tmp_path_factory) -> tuple[Path, list[Update], Totals]:
    out = tmp_path_factory.mktemp("undisturbed")
    updates, tally = train(tiny, mixture, out)
    assert tally is not None
    return out, updates, tally


def test_it_learns_and_counts_every_sample_once_an_epoch(undisturbed) -> None:
    _, updates, tally = undisturbed
    assert len(updates) > 8 and updates[-1].loss < 0.85 * updates[0].loss
    assert tally.samples == sum(u.samples for u in updates) == 2 * 42
    assert tally.trained_tokens == sum(u.trained_tokens for u in updates)
    assert (tally.first_loss, tally.last_loss) == (updates[0].loss, updates[-1].loss)
    assert [u.step for u in updates] == list(range(1, len(updates) + 1))
    assert 0.9 < updates[-1].progress < 1.0 and updates[0].learning_rate > 0 < updates[-1].learning_rate
    assert all(a.progress < b.progress for a, b in pairwise(updates))
    assert 0 < updates[0].fill <= 1


@pytest.mark.parametrize("stop", [1, 2, 5, 7])
def test_after_an_interruption_everything_goes_on_as_if_there_had_been_none(
    tiny, mixture, tmp_path: Path, undisturbed, stop: int
) -> None:
    reference, expected, tally = undisturbed
    first, none = train(tiny, mixture, tmp_path, stop=stop)
    assert none is None and not (tmp_path / "model").exists()
    saved = stop - 1 - (stop - 1) % 2  # the update that was interrupted had not been saved
    second, found = train(tiny, mixture, tmp_path)
    assert order(first[:saved] + second) == order(expected)
    assert [u.loss for u in first[:saved] + second] == losses(expected)
    assert found is not None
    assert (found.samples, found.trained_tokens) == (
        tally.samples, tally.trained_tokens,
    )  # fmt: skip
    after, before = tensors(tmp_path / "model"), tensors(reference / "model")
    assert all(torch.allclose(after[name], before[name], atol=1e-4) for name in before)


def test_a_finished_run_has_nothing_left_to_do(tiny, mixture, undisturbed) -> None:
    out, _, tally = undisturbed
    again, found = train(tiny, mixture, out)
    assert again == [] and found is not None and found.to_json() == tally.to_json()


def test_stages_build_on_each_other_and_each_changes_only_its_own(tiny, mixture, tmp_path: Path, undisturbed) -> None:
    first = undisturbed[0] / "model"
    train(tiny, mixture, tmp_path, name="clever-2", start=FlamingoConfig(folder=str(first)))
    model = opened(FlamingoConfig(folder=str(tmp_path / "model")))
    assert (tmp_path / "model" / "tuned.safetensors").is_file() and model.lora == str(tmp_path / "model" / "lora")
    base, one, two = tiny.load(lora=str(first / "lora")), tensors(first), tensors(tmp_path / "model")
    plain = dict(base.named_parameters())
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed and all(name.startswith("perceiver.") or ".gated_cross_attn_layer." in name for name in changed)
    assert not any(".ff." in name and "gated" in name for name in changed)
    assert all(torch.equal(one[name], plain[name]) for name in one if name in plain and "lora" not in name
               and "_proj" not in name)  # fmt: skip
    third = tmp_path / "third"
    train(tiny, mixture, third, name="clever-1", start=FlamingoConfig(folder=str(tmp_path / "model")))
    three = tensors(third / "model")
    changed = {name for name in two if not torch.equal(two[name], three[name])}
    assert changed and all(".lora_" in name for name in changed), "the connector of stage 2 is still there"


def test_an_unfrozen_vision_tower_learns_is_saved_and_loaded(tiny, mixture, tmp_path: Path) -> None:
    unfrozen = replace(TUNED, tune=("vision_encoder", *CONNECTOR))
    updates, tally = train(tiny, mixture, tmp_path, name="clever-2", stages=Stages(clever_2=unfrozen))
    assert tally is not None and updates[-1].loss < updates[0].loss
    before = dict(load_flamingo(tiny.config).named_parameters())
    after = tensors(tmp_path / "model")
    changed = {name for name, one in after.items() if name in before and not torch.equal(one, before[name])}
    assert any(name.startswith("vision_encoder.transformer") for name in changed)
    frozen, _ = train(tiny, mixture, tmp_path / "frozen", name="clever-2", stages=Stages(clever_2=TUNED))
    assert frozen[0].loss == pytest.approx(updates[0].loss, rel=1e-4), "pixels and patch tokens mean the same"


def test_a_loss_that_is_not_finite_stops_with_the_samples_and_keeps_what_was_good(
    tiny, mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LossNotFinite) as caught:
        config = TrainingConfig(base=tiny.config, stages=Stages(clever_1=LORA), shards_a_group=2, dtype="float32",
                                checkpoint_steps=2)  # fmt: skip
        models = []

        def start(*arguments, **settings):
            models.append(start_model(*arguments, **settings))
            return models[-1]

        monkeypatch.setattr(run_stage, "start_model", start)

        def poison(update: Update) -> None:
            if update.step == 4:
                models[0].lang_encoder.get_input_embeddings().weight.data.fill_(math.nan)

        train_stage(config, "clever-1", config.base, mixture, location(tmp_path), on_update=poison)
    assert "update 5" in str(caught.value) and "made/train/" in str(caught.value)
    kept = checkpoints.newest(location(tmp_path / "checkpoints"))
    assert kept is not None and kept.step == 4 and str(kept) in str(caught.value)
    saved = torch.load(io.BytesIO(kept.read(kept.optimizer)))
    assert all(torch.isfinite(t).all() for t in saved.popitem()[1].values())


def test_the_samples_of_the_micro_batch_at_fault_are_named(
    tiny, mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[list[str]] = []
    calls = iter(range(99))

    def noted(rows, *arguments, **named):
        keys.append([key for row in rows for key in row.keys])
        return make_batch(rows, *arguments, **named)

    def poisoned(self: ModelWithLoss, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss, correct = honest(self, batch)
        return (loss * math.nan if next(calls) == 3 else loss), correct  # the second micro-batch of the second update

    honest = ModelWithLoss.forward
    monkeypatch.setattr(loop, "make_batch", noted)
    monkeypatch.setattr(ModelWithLoss, "forward", poisoned)
    with pytest.raises(LossNotFinite, match="update 2: loss nan") as caught:
        train(tiny, mixture, tmp_path)
    assert keys[3][0] in str(caught.value) and not any(f"{key}," in str(caught.value) for key in keys[2])


def names(folder: Path) -> set[str]:
    """The files of a folder, with ATTEMPT for what is random in a name."""
    return {re.sub(r"\.[0-9a-f]{8}\.", ".ATTEMPT.", path.name) for path in folder.iterdir()}


def checkpoint_files(*steps: int) -> set[str]:
    """What `names` finds where there are whole checkpoints of these steps."""
    ends = ("json", "ATTEMPT.tuned.safetensors", "ATTEMPT.optimizer.pt")
    return {f"step-{step:06d}.{end}" for step in steps for end in ends}


def test_what_is_half_written_is_not_read(tiny, mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny, mixture, tmp_path, stop=5)
    folder = tmp_path / "checkpoints"
    assert names(folder) == checkpoint_files(2, 4)
    (folder / "step-000006.01234567.tuned.safetensors").write_bytes(b"without a manifest")
    (folder / "step-000006.01234567.optimizer.pt.tmp-0123456789abcdef").write_bytes(b"half")
    other = json.loads((folder / "step-000004.json").read_text())
    other["files"]["optimizer"]["path"] = "step-000008.01234567.optimizer.pt"
    (folder / "step-000008.json").write_text(json.dumps(other))  # its files were swept while it was written
    found = checkpoints.newest(location(folder))
    assert found is not None and found.step == 4

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match=r"update 6: no checkpoint could be written.*No space"):
        train(tiny, mixture, tmp_path)
    assert names(folder) == checkpoint_files(2, 4)


def test_a_checkpoint_whose_bytes_have_changed_is_refused(tiny, mixture, tmp_path: Path) -> None:
    train(tiny, mixture, tmp_path, stop=3)
    (tuned,) = (tmp_path / "checkpoints").glob("*.tuned.safetensors")
    data = tuned.read_bytes()
    tuned.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"tuned\.safetensors is damaged; delete .*step-000002\.json to resume"):
        train(tiny, mixture, tmp_path)


def as_earlier_versions_wrote_it(folder: Path, step: int, name: str) -> None:
    """Turn a checkpoint into a folder, as it was before there were buckets."""
    (folder / name).mkdir()
    manifest = folder / f"step-{step:06d}.json"
    (folder / name / "state.json").write_text(json.dumps(json.loads(manifest.read_text())["state"]))
    manifest.unlink()
    for file in ("tuned.safetensors", "optimizer.pt"):
        next(folder.glob(f"step-{step:06d}.*.{file}")).rename(folder / name / file)


def test_folders_of_earlier_versions_are_resumed_and_give_way_to_newer_checkpoints(
    tiny, mixture, tmp_path: Path, undisturbed
) -> None:
    train(tiny, mixture, tmp_path, stop=5)
    folder = tmp_path / "checkpoints"
    as_earlier_versions_wrote_it(folder, 2, "step-000002")
    as_earlier_versions_wrote_it(folder, 4, "step-000004.old")  # killed while another step-000004 took its place
    (folder / "step-000004.tmp").mkdir()
    (folder / "step-000004.tmp" / "tuned.safetensors").write_bytes(b"half")
    (folder / "step-notes.tmp").write_bytes(b"the user's")
    found = checkpoints.newest(location(folder))
    assert found is not None and found.step == 4
    second, _ = train(tiny, mixture, tmp_path, stop=7)
    assert order(second) == order(undisturbed[1][4:7])
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "tuned.safetensors", "optimizer.pt", "state.json", "step-notes.tmp",
        *(path.name for path in folder.glob("step-000006.*")),
    }, "the two of which the last are kept"  # fmt: skip
    third, _ = train(tiny, mixture, tmp_path)
    assert order(third) == order(undisturbed[1][6:])
    checkpoints.sweep(location(tmp_path / "nowhere"))


def test_a_worker_that_was_believed_dead_overwrites_nothing(tmp_path: Path) -> None:
    folder = location(tmp_path)
    for number in (1.0, 2.0):  # the same step, by two workers
        checkpoints.save(folder, 7, {"weight": torch.full((2,), number)}, {}, {"positions": []}, keep=1)
    found = checkpoints.newest(folder)
    assert found is not None
    parameter = torch.nn.Parameter(torch.zeros(2))
    found.load({"weight": parameter})
    assert parameter.tolist() == [1.0, 1.0] and names(tmp_path) == checkpoint_files(7)


def test_a_checkpoint_is_on_disk_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power loss, files and folders have what was synced."""
    done: list[str] = []
    sync, link = os.fsync, Path.hardlink_to

    def synced(descriptor: int) -> None:
        done.append(re.sub(r"\.[0-9a-f]{8}\.|\.tmp-.*", ".", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def linked(self: Path, target: Path) -> None:
        done.append("created")
        link(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "hardlink_to", linked)
    checkpoints.save(location(tmp_path / "here"), 7, {"weight": torch.zeros(2)}, {}, {"positions": []}, keep=1)
    files = ["step-000007.tuned.safetensors.", "step-000007.optimizer.pt.", "step-000007.json."]
    assert done == [*files, "created", "here"]


def test_a_checkpoint_of_another_stage_or_other_ranks_is_refused(tiny, mixture, tmp_path: Path) -> None:
    train(tiny, mixture, tmp_path, stop=3)
    with pytest.raises(ValueError, match="another stage or model"):
        train(tiny, mixture, tmp_path, name="clever-2")
    manifest = tmp_path / "checkpoints" / "step-000002.json"
    record = json.loads(manifest.read_text())
    record["state"]["positions"] *= 2
    manifest.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="written by 2 workers"):
        train(tiny, mixture, tmp_path)


class Forgetful(LocalStream):
    """A group whose samples are all skipped."""

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        for packed in super().packed(epoch, first):
            packed.rows = []
            yield packed


def test_an_epoch_without_rows_ends(tiny, mixture, tmp_path: Path) -> None:
    updates, tally = train(tiny, mixture, tmp_path, stream_of=Forgetful)
    assert updates == [] and tally is not None and tally.rows == 0
    assert tally.first_loss is None and tally.last_loss is None
    manifest = tmp_path / "checkpoints" / "step-000000.json"
    record = json.loads(manifest.read_text(), parse_constant=pytest.fail)["state"]["tally"]
    assert Totals.from_json(record) == tally == Totals.from_json(record | {"first_loss": math.nan})
    assert "loss                        none → none" in summary("clever-1", table_of(tally), location(tmp_path))


def table_of(tally: Totals) -> dict[str, object]:
    return {**tally.to_json(), "updates": 0, "window": 160, "restarts": 0}


def test_the_learning_rate_rises_falls_and_ends_at_nothing() -> None:
    stage = StageConfig(tune=("lora",), learning_rate=1.0, warm_up=0.1)
    assert learning_rate(stage, 0.0) == 0 and learning_rate(stage, 0.05) == pytest.approx(0.5)
    assert learning_rate(stage, 0.1) == pytest.approx(1.0) and learning_rate(stage, 0.55) == pytest.approx(0.5)
    assert learning_rate(stage, 1.0) == pytest.approx(0.0)


def test_gradient_checkpointing_runs_layers_again_and_changes_nothing(
    tiny, mixture, tmp_path: Path, undisturbed
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    calls = [0]

    def counted(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return plain(self, x)

    LlamaMLP.forward = counted
    try:
        updates, _ = train(tiny, mixture, tmp_path / "again", gradient_checkpointing=True)
        again, calls[0] = calls[0], 0
        train(tiny, mixture, tmp_path / "once")
    finally:
        LlamaMLP.forward = plain
    assert order(updates) == order(undisturbed[1]) and [u.loss for u in updates] == losses(undisturbed[1])
    assert again == 2 * calls[0] > 0
