"""Tiny random models in the formats of the real ones: the filters' code runs, but its numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polite_flamingo.torchvision_repair import repair_torchvision

WORDS = """
a an the is are of in on to and it that this what which colour color how many answer question red blue green yellow
circle square triangle star large small left right above below picture image shows dog runs beach happy bus man waits
field one two three four five
"""


def _tokenizer(folder: Path) -> None:
    """A word-level tokenizer with BERT's template; unknown words are spelled out in letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?:'\"-"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split(), *(f"##{c}" for c in letters), *letters]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
    ).save_pretrained(folder)


def _classifier(folder: Path, *, labels: dict[int, str], seed: int) -> Path:
    repair_torchvision()
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    _tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=256,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,  # far enough from zero for a wrong mask or a wrong pair to move the logits
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
        num_labels=len(labels),
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def nli_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The order of its labels deliberately differs from the stored one."""
    labels = {0: "entailment", 1: "neutral", 2: "contradiction"}
    return _classifier(tmp_path_factory.mktemp("nli"), labels=labels, seed=1)


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _classifier(tmp_path_factory.mktemp("reward"), labels={0: "LABEL_0"}, seed=2)


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for open_clip's `local-dir:`, with an HF tokenizer inside."""
    repair_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    _tokenizer(folder)
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 256,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "bundled",
        },
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "size": [32, 32]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.manual_seed(3)
    text = {name: value for name, value in model["text_cfg"].items() if name != "hf_tokenizer_name"}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=model["vision_cfg"], text_cfg=text)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return folder
