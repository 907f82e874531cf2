from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.batches import by_similar_length
from polite_flamingo.filters.pair_classifier import PairClassifier


def test_by_similar_length_share_a_batch_and_none_is_lost() -> None:
    rng = random.Random(0)
    lengths = [rng.randrange(1, 200) for _ in range(500)]
    batches = list(by_similar_length(lengths, 32))
    assert sorted(place for batch in batches for place in batch) == list(range(500))
    assert all(len(batch) <= 32 for batch in batches)
    heads = [lengths[batch[0]] for batch in batches]
    assert heads == sorted(heads, reverse=True) and heads[0] == max(lengths)
    padded = sum(lengths[batch[0]] * len(batch) for batch in batches)
    assert padded < 1.07 * sum(lengths)
    assert len(batches) < 60
    assert list(by_similar_length([], 4)) == []
    assert list(by_similar_length([5, 900, 5, 5], 4)) == [[1], [0, 2, 3]], "short texts are not padded to one long one"


@pytest.fixture
def classifier(nli_model: Path) -> PairClassifier:
    return PairClassifier(str(nli_model), device="cpu", batch_size=16)


def varied(count: int) -> list[tuple[str, str]]:
    rng = random.Random(1)
    words = ["a", "dog", "runs", "on", "the", "beach", "red", "blue", "circle", "square", "bus", "waits", "one", "two"]
    lengths = [0, 1, 3, 9, 40, 90]
    texts = [" ".join(rng.choices(words, k=rng.choice(lengths))) for _ in range(2 * count)]
    return list(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("by_library", [False, True])
def test_the_logits_are_those_of_each_pair_alone(
    classifier: PairClassifier, nli_model: Path, by_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nli_model)
    model = AutoModelForSequenceClassification.from_pretrained(nli_model).eval()
    pairs = varied(60)
    if by_library:  # as on an accelerator, and as for other kinds of models
        monkeypatch.setattr(classifier, "_packed", None)
    for pair, logits in zip(pairs, classifier.logits(pairs), strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(*pair, return_tensors="pt", truncation=True, max_length=128)).logits[0]
        assert logits == pytest.approx(expected.tolist(), abs=1e-4)


def test_each_distinct_pair_is_run_once_and_hardly_padded(
    classifier: PairClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, int]] = []
    forward = classifier._model.forward

    def counted(**inputs: Any) -> Any:
        runs.append((inputs["input_ids"].numel(), int(inputs["attention_mask"].sum())))
        return forward(**inputs)

    monkeypatch.setattr(classifier._model, "forward", counted)
    monkeypatch.setattr(classifier, "_packed", None)
    once = list(dict.fromkeys(varied(200)))
    classifier.logits(once)
    tokens = sum(real for _, real in runs)
    assert sum(padded for padded, _ in runs) < 1.2 * tokens
    runs.clear()
    classifier.logits(once * 3)
    assert sum(real for _, real in runs) == tokens
    assert classifier.logits([]) == []


def test_without_padding_each_distinct_pair_is_run_once(
    classifier: PairClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    first = packed_encoder.PackedBert.first_token

    def counted(model: packed_encoder.PackedBert, ids: Any, types: Any) -> Any:
        runs.append(len(ids))
        return first(model, ids, types)

    monkeypatch.setattr(packed_encoder.PackedBert, "first_token", counted)
    once = list(dict.fromkeys(varied(200)))
    logits = classifier.logits(once)
    assert sum(runs) == len(once)
    runs.clear()
    assert classifier.logits(once * 3) == logits * 3
    assert sum(runs) == len(once)
