"""A Flamingo with random weights and real sizes, made on the device, and a realistic mix of requests.

Speed depends on sizes and not on weights, so nothing is downloaded or written to disk. Texts are meaningless token ids,
and the lengths of answers are fixed.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from PIL import Image as Pillow

from polite_flamingo.flamingo.config import CrossAttentionConfig, PerceiverConfig
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import SamplingParams
from polite_flamingo.flamingo.model.attention import Attention
from polite_flamingo.torchvision_repair import repair_torchvision

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Flamingo.

    Attributes:
        vision: sizes of open_clip's vision tower.
        language: sizes for transformers' `LlamaConfig`.
        every: a cross-attention block precedes every n-th layer.
        picture: width and height of the pictures in requests.
        scale: factor for the lengths of the mix.
    """

    vision: dict[str, Any]
    language: dict[str, Any]
    every: int
    picture: tuple[int, int]
    scale: float = 1.0
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    cross_attention: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)


SHAPES = {
    # OpenFlamingo-9B (v1): LLaMA-7B, whose defaults are transformers' own, with three tokens more; CLIP ViT-L/14@336
    "9b": Shape(
        vision={"image_size": 336, "layers": 24, "width": 1024, "patch_size": 14},
        language={"vocab_size": 32003, "max_position_embeddings": 2048},
        every=4,
        picture=(640, 480),
    ),
    "tiny": Shape(
        vision={"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        language={
            "vocab_size": 503, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "max_position_embeddings": 512,
        },
        every=2,
        picture=(64, 48),
        scale=0.15,
        perceiver=PerceiverConfig(depth=1, latents=8, heads=2, dim_head=16, ff_mult=2),
        cross_attention=CrossAttentionConfig(heads=2, dim_head=16, ff_mult=2),
    ),
}  # fmt: skip


class Ids:
    """The part of a tokenizer that the engine needs: ids as in the legacy LLaMA tokenizer, for any vocabulary size."""

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, vocabulary: int):
        self._size = vocabulary
        self.end_of_chunk_id, self.image_id = vocabulary - 3, vocabulary - 2

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return self._size

    def encode(self, text: str) -> list[int]:
        """Raise: requests have no text here."""
        raise NotImplementedError("requests of this benchmark are ids")

    def decode(self, ids: Sequence[int]) -> str:
        """Write the ids as numbers."""
        return " ".join(map(str, ids))

    def words(self, rng: random.Random, count: int) -> list[int]:
        """Sample ids that are not special tokens."""
        return [rng.randrange(3, self._size - 3) for _ in range(count)]


def build(shape: Shape, attention: Attention, device: torch.device, dtype: torch.dtype) -> FlamingoModel:
    """Build the model, frozen, with its gates half open."""
    repair_torchvision()
    import open_clip

    from polite_flamingo.flamingo.model.model import FlamingoModel

    tokenizer = Ids(shape.language["vocab_size"])
    config = transformers.LlamaConfig(**shape.language, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device(device):
        tower = open_clip.CLIP(
            embed_dim=64, vision_cfg=shape.vision, quick_gelu=True,
            text_cfg={"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1},
        ).visual  # fmt: skip
        model = FlamingoModel(
            tower,
            transformers.AutoModelForCausalLM.from_config(config, dtype=dtype),
            end_of_chunk_id=tokenizer.end_of_chunk_id,
            image_id=tokenizer.image_id,
            attention=attention,
            cross_attn_every_n_layers=shape.every,
            perceiver=shape.perceiver,
            cross_attention=shape.cross_attention,
        )
    blocks = model.lang_encoder.gated_cross_attn_layers
    for block in filter(None, blocks):  # open_flamingo closes them at first, and images would have no effect
        block.attn_gate.data.fill_(0.5)
        block.ff_gate.data.fill_(0.5)
    for module in (model.vision_encoder, model.perceiver, blocks):
        module.to(dtype)
    model.tokenizer = tokenizer
    model.preprocess = open_clip.image_transform(shape.vision["image_size"], is_train=False)
    return model.requires_grad_(False).eval()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of sample in the mix: its share, and what its prompts and answers look like (lowest and highest).

    Attributes:
        count: number of samples in PF-1M (paper, table of datasets).
        images: per sample.
        asked: samples that share the same images.
        draft: tokens of instruction and drafted response.
        answer: generated tokens.
    """

    count: int
    images: int
    asked: tuple[int, int]
    draft: tuple[int, int]
    answer: tuple[int, int]


MIX = {
    "captioning": Kind(count=271_239, images=1, asked=(1, 1), draft=(60, 400), answer=(60, 200)),
    "classification": Kind(count=21_772, images=1, asked=(1, 1), draft=(60, 200), answer=(40, 120)),
    "change captioning": Kind(count=16_295, images=2, asked=(1, 1), draft=(30, 80), answer=(20, 80)),
    "VQA with rationale": Kind(count=84_597, images=1, asked=(1, 2), draft=(30, 70), answer=(20, 60)),
    "VQA": Kind(count=581_879, images=1, asked=(1, 4), draft=(15, 35), answer=(8, 30)),
}
"""Counts from the paper (arXiv 2307.01003). Lengths, and how many questions share a picture, are assumptions."""

SYSTEM = 60
"""Tokens of the system message and prompt markers, the same in every prompt; also an assumption."""


def mixed(shape: Shape, tokenizer: Ids, count: int, seed: int) -> list[Request]:
    """Generate `count` requests in the proportions of `MIX`, shuffled; different seeds share no pictures."""
    rng = random.Random(seed)
    shared = tokenizer.words(random.Random(0), scaled(SYSTEM, shape))
    total = sum(kind.count for kind in MIX.values())
    requests: list[Request] = []
    adopted = 0
    for kind in MIX.values():
        adopted += kind.count
        left, images = 0, [b""]
        while len(requests) < round(count * adopted / total):
            if not left:
                images, left = [picture(shape, rng) for _ in range(kind.images)], rng.randint(*kind.asked)
            left -= 1
            seen = [token for _ in images for token in (tokenizer.image_id, tokenizer.end_of_chunk_id)]
            draft = tokenizer.words(rng, scaled(rng.randint(*kind.draft), shape))
            answer = SamplingParams(max_new_tokens=scaled(rng.randint(*kind.answer), shape))
            requests.append(Request(ids=[*shared, *seen, *draft], images=images, params=answer))
    rng.shuffle(requests)
    return requests


def scaled(length: int, shape: Shape) -> int:
    """Scale a length of the mix to a shape."""
    return max(1, round(length * shape.scale))


def picture(shape: Shape, rng: random.Random) -> bytes:
    """Generate a JPEG of smooth colours, about as costly to decode as a photograph."""
    coarse = np.frombuffer(rng.randbytes(24 * 18 * 3), dtype=np.uint8).reshape(18, 24, 3)
    buffer = io.BytesIO()
    Pillow.fromarray(coarse).resize(shape.picture, Pillow.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
