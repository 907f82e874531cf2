"""Compared with the libraries' forward passes, on tiny random models with weights large enough to matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.filters import packed_encoder
from polite_flamingo.filters.batches import by_tokens
from polite_flamingo.filters.clipscore import ClipScore
from tests.filters.test_clipscore import picture

LENGTHS = (9, 9, 9, 40, 2, 2, 1, 17)


@pytest.fixture(scope="module")
def bert(nli_model: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(nli_model).float().eval().bert


def texts() -> tuple[list[list[int]], list[list[int]]]:
    rng = random.Random(0)
    ids = [[rng.randrange(2, 80) for _ in range(length)] for length in LENGTHS]
    return ids, [[int(place > length // 2) for place in range(length)] for length in LENGTHS]


def test_every_token_is_the_librarys(bert: Any) -> None:
    import torch

    model, (ids, types) = packed_encoder.bert(bert), texts()
    assert model is not None
    with torch.inference_mode():
        expected = [
            bert(input_ids=torch.tensor([text]), token_type_ids=torch.tensor([kinds])).last_hidden_state[0]
            for text, kinds in zip(ids, types, strict=True)
        ]
        found = model.all_tokens(ids, types)
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)


def test_the_first_token_is_the_librarys_though_the_last_layer_runs_for_no_other(bert: Any) -> None:
    import torch

    model, (ids, types) = packed_encoder.bert(bert), texts()
    assert model is not None
    with torch.inference_mode():
        expected = [
            bert(input_ids=torch.tensor([text]), token_type_ids=torch.tensor([kinds])).last_hidden_state[0, 0]
            for text, kinds in zip(ids, types, strict=True)
        ]
        found = model.first_token(ids, types)
        alone = [model.first_token([text], [kinds])[0] for text, kinds in zip(ids, types, strict=True)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)
    assert torch.allclose(torch.stack(alone), found, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.01, "equally long texts are not mixed up"


def test_pictures_are_seen_as_the_library_sees_them(clip_model: Path) -> None:
    import torch

    clip = ClipScore(str(clip_model), pretrained="", device="cpu", batch_size=4)
    assert clip._packed_image is not None and clip._packed_text is not None
    pixels_B3HW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(clip._encode_image(pixels_B3HW), clip._model.encode_image(pixels_B3HW), atol=1e-5)


def test_what_is_no_such_layer_stays_with_the_library(
    bert: Any, clip_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    import torch

    monkeypatch.setattr(bert.config, "hidden_act", "relu")
    assert packed_encoder.bert(bert) is None
    clip = ClipScore(str(clip_model), pretrained="", device="cpu", batch_size=4)
    rows = [(picture(1), ["a red circle. a dog"]), (picture(2), ["dog"])]
    before = clip.score(rows)
    for block in (*clip._model.transformer.resblocks, *clip._model.visual.transformer.resblocks):
        block.mlp.gelu = open_clip.transformer.QuickGELU()  # as OpenAI's models have
    assert packed_encoder.clip_encoder(clip._model.transformer, causal=True) is None
    assert packed_encoder.clip_encoder(clip._model.visual.transformer, causal=False) is None
    clip._packed_text = clip._packed_image = None
    after = clip.score(rows)
    assert before != after and all(isinstance(row, list) for row in after)
    assert packed_encoder.clip_encoder(torch.nn.Linear(2, 2), causal=False) is None


def test_runs_of_equal_lengths() -> None:
    assert list(packed_encoder.runs_of_equal_length([3, 3, 5, 2, 2, 2])) == [(0, 2, 3, 0), (6, 1, 5, 2), (11, 3, 2, 3)]
    assert list(packed_encoder.runs_of_equal_length([])) == []


def test_batches_hold_so_many_tokens_and_lose_no_text() -> None:
    rng = random.Random(0)
    lengths = [rng.randrange(1, 60) for _ in range(300)] + [900]
    batches = list(by_tokens(lengths, 100))
    assert sorted(place for batch in batches for place in batch) == list(range(301))
    assert batches[0] == [300], "a text longer than a batch is run all the same"
    assert all(sum(lengths[place] for place in batch) <= 100 for batch in batches[1:])
    ordered = [lengths[place] for batch in batches for place in batch]
    assert ordered == sorted(lengths, reverse=True), "equal lengths lie side by side"
    assert list(by_tokens([], 10)) == []
