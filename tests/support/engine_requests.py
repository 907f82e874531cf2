"""Random requests for the engine, and what the engine answers to them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image as Pillow

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.engine import Engine
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

NEW = 12
"""New tokens per answer."""


def picture(seed: int) -> bytes:
    noise = torch.randint(0, 256, (24, 24, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(noise.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [picture(seed) for seed in range(7)]


def prompts(model: FlamingoModel, count: int, seed: int) -> list[Request]:
    """Return requests of 1 to 90 tokens with 0 to 4 images anywhere; some share a prefix, as if about one image."""
    rng = random.Random(seed)
    special = {
        model.tokenizer.image_id,
        model.tokenizer.end_of_chunk_id,
        model.tokenizer.pad_id,
        model.tokenizer.eos_id,
    }
    words = [token for token in range(3, len(model.tokenizer)) if token not in special]
    beginnings = [[rng.choice(words) for _ in range(9)] for _ in range(2)]
    made = []
    for number in range(count):
        ids = [*rng.choice([[], *beginnings]), *(rng.choice(words) for _ in range(rng.choice((1, 4, 20, 80))))]
        shown = rng.choice((0, 1, 1, 2, 3, 4))
        for _ in range(shown):
            ids.insert(rng.randrange(len(ids)), model.tokenizer.image_id)
        made.append(Request(ids=ids, images=[rng.choice(PICTURES) for _ in range(shown)], params=decoding(number)))
    return made


def decoding(number: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=NEW, no_repeat_ngram_size=(0, 0, 2, 3)[number % 4])


def stop_token_ids_of(model: FlamingoModel) -> list[int]:
    # random weights rarely produce the real ones
    return [model.tokenizer.eos_id, model.tokenizer.end_of_chunk_id, *range(20, len(model.tokenizer), 17)]


def fresh(requests: Sequence[Request]) -> list[Request]:
    return [Request(ids=r.ids, images=r.images, params=r.params) for r in requests]


def texts(model: FlamingoModel, requests: Sequence[Request], **config: int) -> list[list[int]]:
    engine = Engine(model, EngineConfig(**config), stop_token_ids=stop_token_ids_of(model))
    engine.generate(requests)
    assert engine.idle and all(request.done and request.error is None for request in requests)
    return [request.tokens for request in requests]
