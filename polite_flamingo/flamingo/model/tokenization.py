"""Tokenizers: one from transformers, or the legacy LLaMA tokenisation that the v1 weights were trained with.

The slow LLaMA tokenizer of transformers 4.28 strips white space around special tokens and encodes each piece between
them separately, with its own space mark (`▁###`). Current tokenizers keep the white space and give other ids.
`LegacyLlamaTokenizer` reproduces the old ids from the same `tokenizer.model`.

Both add open_flamingo's tokens in its order (`<|endofchunk|>`, `<image>`, and `<PAD>` if there is no pad token), so the
ids match its checkpoints. Prompts are built in `polite_flamingo/prompts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from polite_flamingo import hub
from polite_flamingo.flamingo.config import END_OF_CHUNK_TOKEN, IMAGE_TOKEN, PAD_TOKEN, FlamingoConfig
from polite_flamingo.torchvision_repair import repair_torchvision


class Tokenizer(Protocol):
    """The interface that the model and the rewriter need."""

    pad_id: int
    eos_id: int
    image_id: int
    end_of_chunk_id: int
    begin_ids: Sequence[int]
    """Ids that `encode` puts first: the beginning-of-sequence id, or none if the tokenizer has none."""
    special_ids: Collection[int]
    """Ids that user text must never produce: those above and all other special tokens."""

    def __len__(self) -> int:
        """Count the ids, including added tokens: the rows of the embedding matrix."""

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Encode a text, after `begin_ids` if `begin` is set."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, skipping special tokens."""


def load_tokenizer(config: FlamingoConfig) -> Tokenizer:
    """Load the tokenizer that `config` names."""
    name = hub.resolve(config.tokenizer)
    if config.tokenization == "legacy_llama":
        return LegacyLlamaTokenizer(_sentencepiece_file(name))
    return TransformersTokenizer(name)


class TransformersTokenizer:
    """A transformers tokenizer, with open_flamingo's special tokens added if they are missing.

    Attributes:
        tokenizer: the wrapped transformers tokenizer.
    """

    def __init__(self, name: str):
        """Args: name: a folder or a hub name."""
        repair_torchvision()  # it reads the model's configuration, which imports torchvision
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        tokenizer.add_tokens([END_OF_CHUNK_TOKEN, IMAGE_TOKEN], special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        if tokenizer.eos_token_id is None:
            raise ValueError(f"tokenizer {name!r} has no end-of-sequence token; set eos_token in tokenizer_config.json")
        self.tokenizer = tokenizer
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.end_of_chunk_id: int = tokenizer.convert_tokens_to_ids(END_OF_CHUNK_TOKEN)
        self.begin_ids: Sequence[int] = tuple(tokenizer("")["input_ids"])
        unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        special = {*tokenizer.all_special_ids, self.image_id, self.end_of_chunk_id}
        self.special_ids: Collection[int] = special - unknown

    def __len__(self) -> int:
        """Count the ids, including added tokens."""
        return len(self.tokenizer)

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        return list(self.tokenizer(text, add_special_tokens=begin)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


class LegacyLlamaTokenizer:
    """The slow LlamaTokenizer of transformers 4.28, as v1 used it: pad 0, bos 1, eos 2, then the added tokens."""

    pad_id = 0
    bos_id = 1
    eos_id = 2
    begin_ids: Sequence[int] = (bos_id,)

    def __init__(self, model_file: Path):
        """Args: model_file: a sentencepiece `tokenizer.model`."""
        import sentencepiece

        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        base = self._pieces.get_piece_size()
        self.end_of_chunk_id = base
        self.image_id = base + 1
        self._special = {
            "<unk>": 0, "<s>": self.bos_id, "</s>": self.eos_id,
            END_OF_CHUNK_TOKEN: base, IMAGE_TOKEN: base + 1, PAD_TOKEN: base + 2,
        }  # fmt: skip
        self.special_ids: Collection[int] = frozenset(self._special.values())
        self._split = re.compile("(" + "|".join(re.escape(token) for token in self._special) + ")")

    def __len__(self) -> int:
        """Count the ids, including the three added tokens."""
        return self._pieces.get_piece_size() + 3

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Encode each piece between special tokens separately, with white space next to them stripped."""
        parts = self._split.split(text)
        ids = [self.bos_id] if begin else []
        for place, part in enumerate(parts):
            if part in self._special:
                ids.append(self._special[part])
                continue
            if place > 0:
                part = part.lstrip()
            if place < len(parts) - 1:
                part = part.rstrip()
            if part:
                ids.extend(self._pieces.encode(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self._pieces.decode([int(i) for i in ids if i not in self.special_ids])


def _sentencepiece_file(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        path = path / "tokenizer.model"
    elif not path.exists():
        from transformers.utils.hub import cached_file

        found = cached_file(name, "tokenizer.model")
        path = Path(found) if found else path
    if not path.is_file():
        raise ValueError(f"legacy_llama tokenisation needs a sentencepiece tokenizer.model, but {path} does not exist")
    return path
