"""The reward on tiny models that all filters' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from polite_flamingo.filters.politeness import Politeness

PAIRS = [
    ("What colour is the circle?", "Answer: red"),
    ("What colour is the circle?", "The circle that you see on the left is red."),
    ("", "yes"),
    ("how many?", "one two three " * 20),
]


def test_the_reward_is_the_raw_logit_of_the_pair(reward_model: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    with torch.inference_mode():
        expected = [float(model(**tokenizer(*pair, return_tensors="pt")).logits[0]) for pair in PAIRS]
    assert len({round(value, 3) for value in expected}) == len(PAIRS)
    reward = Politeness(str(reward_model), device="cpu", batch_size=3)
    assert reward.score(PAIRS) == pytest.approx(expected, abs=1e-4)
    assert reward.score(PAIRS[::-1]) == pytest.approx(expected[::-1], abs=1e-4)


def test_a_text_beyond_the_models_window_is_cut_and_scored(reward_model: Path) -> None:
    [reward] = Politeness(str(reward_model), device="cpu", batch_size=1).score([("why?", "red " * 5000)])
    assert abs(reward) < 100


def test_a_classifier_of_several_labels_is_refused(nli_model: Path) -> None:
    with pytest.raises(ValueError, match="reward model has one"):
        Politeness(str(nli_model), device="cpu", batch_size=1)
