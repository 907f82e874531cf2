"""A whole Flamingo of about 60,000 random weights on disk, in the very files that a profile names."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from polite_flamingo.flamingo.config import CrossAttentionConfig, FlamingoConfig, PerceiverConfig
from polite_flamingo.flamingo.model.build import build_flamingo
from polite_flamingo.flamingo.model.checkpoint import load_flamingo, save_flamingo
from polite_flamingo.prompts import SYSTEM, rewriting_prompt
from polite_flamingo.torchvision_repair import repair_torchvision

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Tiny:
    """`config` names every file; `folder` holds them: clip/, lm/ (config and tokenizer only), flamingo.safetensors."""

    folder: Path
    config: FlamingoConfig

    def load(self, **changes: object) -> FlamingoModel:
        """A fresh model, its config changed."""
        return load_flamingo(dataclasses.replace(self.config, **changes))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The world's smallest Flamingo: its weights are large enough that images and tokens matter to every logit."""
    repair_torchvision()
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return _write_tiny(tmp_path_factory.mktemp("tiny_flamingo"), config)


@pytest.fixture(scope="session")
def tiny_grouped(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """LLaMA-type with fewer keys than queries, an output head of its own, and cross-attention in every second layer."""
    repair_torchvision()
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    return _write_tiny(tmp_path_factory.mktemp("tiny_grouped"), config, every=2)


@pytest.fixture(scope="session")
def tiny_mpt(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """MPT-type, with a number of heads that is no power of two."""
    repair_torchvision()
    config = transformers.MptConfig(d_model=48, n_heads=3, n_layers=2, max_seq_len=512, initializer_range=0.2)
    return _write_tiny(tmp_path_factory.mktemp("tiny_mpt"), config)


def _write_tiny(folder: Path, language: transformers.PretrainedConfig, every: int = 1) -> Tiny:
    torch.manual_seed(0)
    _write_clip(folder / "clip")
    language.vocab_size = _write_tokenizer(folder / "lm")
    language.save_pretrained(folder / "lm")
    config = FlamingoConfig(
        vision=str(folder / "clip"),
        language_model=str(folder / "lm"),
        tokenizer=str(folder / "lm"),
        cross_attn_every_n_layers=every,
        perceiver=PerceiverConfig(depth=1, latents=4, heads=2, dim_head=16, ff_mult=2),
        cross_attention=CrossAttentionConfig(heads=2, dim_head=16, ff_mult=2),
    )
    model = build_flamingo(config)
    for block in filter(
        None, model.lang_encoder.gated_cross_attn_layers
    ):  # open_flamingo starts them closed: no image would matter
        block.attn_gate.data.fill_(1.0)
        block.ff_gate.data.fill_(0.5)
    save_flamingo(model, folder / "flamingo.safetensors")
    return Tiny(folder, dataclasses.replace(config, checkpoints=(str(folder / "flamingo.safetensors"),)))


@pytest.fixture(scope="session")
def model_v2(tiny: Tiny) -> FlamingoModel:
    return tiny.load()


@pytest.fixture(scope="session")
def model_v1(tiny: Tiny) -> FlamingoModel:
    return tiny.load(attention="v1")


def _write_clip(folder: Path) -> None:
    import open_clip

    folder.mkdir()
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    clip = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0]
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")


def _write_tokenizer(folder: Path) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [SYSTEM, rewriting_prompt("<image>What is the man doing?", "Answer: he is running")], trainer
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_tokens(["<|endofchunk|>", "<image>"], special_tokens=True)
    fast.save_pretrained(folder)
    return len(fast)
