"""The GPU benchmark also runs on a CPU, and then says that it measures no GPU."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import engine
from benchmarks.gpu.model import MIX, SHAPES, Ids, build, mixed
from polite_flamingo.flamingo.engine.cuda_graphs import StaticStep
from polite_flamingo.flamingo.engine.metrics import CallCost
from polite_flamingo.flamingo.model.decoder import Decoder

SMALL = ["--shape=tiny", "--device=cpu", "--context=12", "--steps=2", "--runs=1", "--requests=7", "--looped=1"]


def report(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> str:
    monkeypatch.setattr(
        sys,
        "argv",
        ["gpu_engine", *SMALL, "--batches", "2", "3", "--out", str(folder / "results" / "report.md"), *more],
    )
    engine.main()
    return (folder / "results" / "report.md").read_text()


@pytest.mark.parametrize("more", [(), ("--semantics", "v2", "--attention", "sdpa", "--sampled")])
def test_every_section_has_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...]) -> None:
    text = report(monkeypatch, tmp_path, *more)
    assert "No GPU was used" in text and "not measured here" in text
    tables = {part.splitlines()[0]: part for part in text.split("\n## ")}
    usual, other = ("sdpa", "bmm") if more else ("bmm", "sdpa")
    for rows in (2, 3):
        assert re.search(rf"\| {rows} \| {usual} \| no, but their buffers \| [\d.]+ ", tables["Decoding, context 12"])
        assert f"| {rows} | {other} | no, but" in tables["Decoding, one thing changed"]
        assert f"| {rows} | {usual} | no | " in tables["Decoding, one thing changed"]
        assert f"CUDA graphs | {rows} | " in tables["What each buys"]
    number = r"[\d.]+%?"
    for name, row in {
        "The whole engine on the mix": rf"{usual} \| 3 \| {number} \| {number} \| – \| 1",
        "The whole engine on the mix, other attention": rf"{other} \| 3 \| {number} \| {number} \| – \| 1",
        "The reference's loop": rf"1 \| {number} \| {number} \| {number}",
        "Images to keys and values of every layer": rf"pixels on the device, 4 at once \| {number} \| 1",
        "Prompts of 12 tokens without images": rf"2048 \| {number} \| {number} \| 1",
    }.items():
        assert re.search(rf"^\| {row} \|$", tables[name], re.MULTILINE), tables[name]
    assert "no forecast for a GPU" in tables["Forecast for PF-1M"]
    assert "nan" not in text


def test_without_time_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = report(monkeypatch, tmp_path, "--budget-seconds", "0")
    assert "did not fit the memory or the budget" in text
    assert "tokens/s at" not in text and "Forecast" not in text


def test_the_mix_has_the_papers_shares_and_fresh_pictures() -> None:
    assert sum(kind.count for kind in MIX.values()) == 975_782, "adopted by PF-1M"
    tokenizer = Ids(SHAPES["tiny"].language["vocab_size"])
    requests = mixed(SHAPES["tiny"], tokenizer, 200, seed=1)
    assert len(requests) == 200
    assert all(request.ids.count(tokenizer.image_id) == len(request.images) > 0 for request in requests)
    shown = {image for request in requests for image in request.images}
    assert len(shown) < 200, "questions share pictures"
    assert not shown & {image for one in mixed(SHAPES["tiny"], tokenizer, 50, seed=2) for image in one.images}


@pytest.mark.parametrize("semantics", ["v1", "v2"])
def test_the_documented_arithmetic_is_that_of_the_true_shape(semantics: str) -> None:
    """The model at its true size, without memory: every shape fits, and nothing in a step asks for a value."""
    model = build(SHAPES["9b"], semantics, torch.device("meta"), torch.bfloat16)  # type: ignore[arg-type]
    decoder = Decoder(model)
    work = CallCost(decoder, model.latents_shape[0])
    documented = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    seeing = 256 if semantics == "v2" else 0
    step = {"places": 256 * 512, "seeing": seeing}
    assert work.weights == 15_361_662_976 and work.place == 524_288 and work.image == 1_048_576
    rate = 256 / (work.bytes(**step, images=seeing) / 4.8e12)
    if semantics == "v1":
        for rows in (64, 128, 256):
            places = rows * 512
            moved = work.bytes(places=places, seeing=0, images=0)
            done = work.flops(answers=rows, tokens=rows, places=places, pairs=places, seeing=0)
            row = f"| {rows} | {moved / 1e9:.2f} GB | {done / 1e12:.2f} TFLOP | {moved / 4.8e9:.2f} ms | "
            row += f"{done / 989e9:.2f} ms | {rows / moved * 4.8e12:,.0f} tokens/s | "
            row += f"{0.55 * rows / moved * 4.8e12:,.0f} tokens/s | {8000 * moved / rows / 1e12:.2f} TB/s |"
            assert row in documented
        assert f"{8000 / rate:.1%}".replace("%", " %") in documented
    else:
        assert f"v2: {0.55 * rate:,.0f} tokens/s" in documented

    with torch.inference_mode():
        pixels = torch.zeros(2, 3, 336, 336, dtype=torch.bfloat16, device="meta")
        media = decoder.image_kv(model.latents(model.patch_tokens(pixels)[:, None, None])[:, 0])
        assert 2 * media[0].keys.numel() * media[0].keys.element_size() == work.image
        cache = decoder.new_cache(256, 576)
        assert cache.data.numel() * 2 == 256 * 576 * work.place
        shape = (media[0].keys.shape[0], 256, *media[0].keys.shape[1:])
        keys, values = torch.zeros(2, *shape, dtype=torch.bfloat16, device="meta")
        shown = keys, values, torch.zeros(256, 1, 1, dtype=torch.bfloat16, device="meta")
        static = StaticStep(decoder, cache, shown, slots=256, image_id=32001)
        assert static.run([5] * 250, [500] * 250, semantics == "v2").shape == (250, 32003)
