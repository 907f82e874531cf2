"""The benchmark of training on a GPU runs on a CPU as well, and counts the operations that its docstring claims."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import train
from benchmarks.gpu.model import SHAPES
from polite_flamingo.flamingo.config import LoraSettings

OPTIONS = argparse.Namespace(shape="tiny", semantics="v1", rows=[1], runs=1)
CPU = torch.device("cpu")


def test_every_stage_has_its_figures_and_none_is_called_a_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "results" / "report.md"
    small = ["--shape=tiny", "--device=cpu", "--dtype=float32", "--rows", "1", "--runs=1", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", ["gpu_train", *small])
    monkeypatch.setattr(train, "timed", lambda device, work: work() or 0.001)  # else a busy machine rounds shares to 0
    train.main()
    text = out.read_text()
    assert "No GPU was used" in text and "not measured here" in text and "nan" not in text
    for rows, window in ((1, 128), (4, 24)):
        for checkpointing in ("yes", "no"):
            found = re.search(
                rf"\| {rows} × {window} \| {checkpointing} \| [\d.]+ \| [\d.]+ \| \d+ "
                r"\| ([\d.]+)% \| [\d.]+% \| ([\d.]+)% \| – \| 1 \|",
                text,
            )
            assert found, text
            mfu, executed = map(float, found.groups())
            assert executed > mfu if checkpointing == "yes" else executed == mfu
    for plan in train.SCHEDULE:
        assert re.search(rf"\| {plan.name} \| \d+ \| [\d,.]+ \| [\d,.]+ \| {plan.hours} \| – \|", text)


def test_without_time_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--shape=tiny", "--device=cpu", "--dtype=float32", "--rows", "1", "--budget-seconds=0"]
    monkeypatch.setattr(sys, "argv", ["gpu_train", *small])
    train.main()
    text = capsys.readouterr().out
    assert text.count("not measured |") == len(train.SCHEDULE)


def test_lora_needs_four_operations_a_weight_and_token_and_checkpointing_two_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Measured where the language model is all there is: wide, few images, LoRA of rank 1, hardly any vocabulary."""
    wide = {**SHAPES["tiny"].language, "hidden_size": 512, "intermediate_size": 1376, "vocab_size": 32}
    monkeypatch.setitem(SHAPES, "tiny", replace(SHAPES["tiny"], language=wide, every=4))
    lora = replace(train.LORA, lora=LoraSettings(r=1, alpha=1))
    monkeypatch.setitem(train.STAGES, "stage 1", replace(train.STAGES["stage 1"], stage=lora, images=1))
    bench = train.Bench("stage 1", OPTIONS, CPU, torch.float32)
    needed, executed = bench.operations(False), bench.operations(True)
    once = bench.multiplied() * bench.window
    assert needed / once == pytest.approx(4, rel=0.15)
    assert executed / once == pytest.approx(6, rel=0.15)


@pytest.mark.parametrize("name", train.STAGES)
def test_rows_are_full_and_only_what_the_stage_tunes_learns(name: str) -> None:
    bench = train.Bench(name, OPTIONS, CPU, torch.float32)
    row = bench.row(0)
    filling = train.STAGES[name]
    assert len(row.ids) == len(row.loss_mask) == len(row.image_numbers) == len(row.sample_index) == bench.window
    assert len(row.images) == row.ids.count(bench.model.tokenizer.image_id) == filling.images == max(row.image_numbers)
    assert sum(row.loss_mask) == pytest.approx(filling.learned * bench.window, rel=0.1)
    bench.run([row, bench.row(1)])
    learned = {key for key, one in bench.model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert learned
    assert all(("lora" in key) if name == "stage 1" else ("perceiver" in key or "cross_attn" in key) for key in learned)
