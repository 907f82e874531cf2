from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from polite_flamingo.filters.nli import Nli, premise_and_hypothesis
from tests.support.reference import golden

PAIRS = [
    premise_and_hypothesis(question="What colour is the circle?", output="The circle is red.", original="Answer: red"),
    premise_and_hypothesis(question="how many dogs", output="two dogs run on the beach " * 6, original="Answer: three"),
    premise_and_hypothesis(question="?", output="", original="yes"),
]


def test_words_the_pair_as_the_reference() -> None:
    for case in golden("metrics_golden.json")["nli_prompts"]:
        pair = premise_and_hypothesis(question=case["question"], output=case["output"], original=case["original"])
        assert pair == (case["premise"], case["hypothesis"])


def test_a_padded_batch_gives_the_logits_of_each_pair_alone(nli_model: Path) -> None:
    nli = Nli(str(nli_model), device="cpu", batch_size=8)
    together = nli.score(PAIRS)
    for pair, logits in zip(PAIRS, together, strict=True):
        assert nli.score([pair])[0] == pytest.approx(logits, abs=1e-4)
    assert nli.score(PAIRS[::-1]) == [pytest.approx(row, abs=1e-4) for row in together[::-1]]


def test_logits_are_raw_and_stand_in_the_stored_order(nli_model: Path) -> None:
    """The model names its labels entailment, neutral, contradiction."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nli_model)
    model = AutoModelForSequenceClassification.from_pretrained(nli_model).eval()
    with torch.inference_mode():
        entailment, neutral, contradiction = model(**tokenizer(*PAIRS[0], return_tensors="pt")).logits[0].tolist()
    [found] = Nli(str(nli_model), device="cpu", batch_size=1).score(PAIRS[:1])
    assert found == pytest.approx([contradiction, entailment, neutral], abs=1e-4)


def test_the_response_is_the_premise(nli_model: Path) -> None:
    nli = Nli(str(nli_model), device="cpu", batch_size=2)
    there, back = nli.score([PAIRS[0], PAIRS[0][::-1]])
    assert there != pytest.approx(back, abs=1e-3)


def test_a_model_of_other_labels_is_refused(nli_model: Path, reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contradiction, entailment, neutral"):
        Nli(str(reward_model), device="cpu", batch_size=1)
    renamed = tmp_path / "renamed"
    shutil.copytree(nli_model, renamed)
    config = json.loads((renamed / "config.json").read_text())
    config["id2label"] = {"0": "cat", "1": "dog", "2": "bird"}
    config["label2id"] = {"cat": 0, "dog": 1, "bird": 2}
    (renamed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="bird"):
        Nli(str(renamed), device="cpu", batch_size=1)
