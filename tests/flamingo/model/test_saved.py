"""A trained model's folder describes the model, wherever the folder is moved."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.flamingo.config import FlamingoConfig, LoraSettings, PerceiverConfig
from polite_flamingo.flamingo.model.saved import FILE, opened, write_config


def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = FlamingoConfig(
        vision="zoo:clip",
        language_model="zoo:flamingo",
        tokenizer="zoo:flamingo",
        checkpoints=("zoo:flamingo/flamingo.safetensors", str(home / "connector.safetensors")),
        lora=str(home / "lora"),
        perceiver=PerceiverConfig(depth=2),
        lora_in_checkpoint=LoraSettings(r=4, alpha=8),
    )
    (home / FILE).write_text(write_config(home, config))
    moved = tmp_path / "elsewhere"
    shutil.move(home, moved)
    found = opened(FlamingoConfig(folder=str(moved)))
    assert found.checkpoints == ("zoo:flamingo/flamingo.safetensors", str(moved / "connector.safetensors"))
    assert found.lora == str(moved / "lora")
    assert replace(found, checkpoints=config.checkpoints, lora=config.lora) == config


def test_what_is_no_folder_of_ours_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no flamingo\.yaml"):
        opened(FlamingoConfig(folder=str(tmp_path)))
    (tmp_path / FILE).write_text("visoin: zoo:clip\n")
    with pytest.raises(ValueError, match="visoin"):
        opened(FlamingoConfig(folder=str(tmp_path)))
    with pytest.raises(ValueError, match="or the folder"):
        FlamingoConfig(vision="zoo:clip")
