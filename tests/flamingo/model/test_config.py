"""Configuration is read by every job's `--help`, so it must not import torch."""

from __future__ import annotations

import subprocess
import sys

from polite_flamingo.flamingo.config import FlamingoConfig


def test_reading_the_configuration_needs_no_torch():
    code = "import polite_flamingo.flamingo.config, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500)
    assert done.stdout.split() == ["False", "False"]


def test_a_runs_fingerprint_covers_every_named_model_once():
    config = FlamingoConfig(
        vision="zoo:clip",
        language_model="zoo:flamingo",
        tokenizer="zoo:flamingo",
        checkpoints=("zoo:flamingo/flamingo.safetensors", "b.pt"),
        lora="zoo:polite",
    )
    assert config.model_names() == (
        "zoo:clip", "zoo:flamingo", "zoo:flamingo/flamingo.safetensors", "b.pt", "zoo:polite",
    )  # fmt: skip
