"""The tokenizer of the tiny CLIP and Flamingo: byte-level BPE learnt on Shapes' texts and the protocol strings.

Digits stay single, so that boxes can be read. Any text can be encoded, because the alphabet is the 256 bytes.
"""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from polite_flamingo.prompts import END_OF_CHUNK, rewriting_prompt
from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.testbed.zoo.pairs import random_pair

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIALS = [PAD, BOS, EOS, END_OF_CHUNK, IMAGE_MARK]
"""Ids 0, 1 and 2, as in the LLaMA tokenizer."""

VOCABULARY = 1200
_PIECES = r" ?0\.|[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s"


def learn_tokenizer(seed: int = 0, pairs: int = 8000) -> Tokenizer:
    """Learn the merges from random pairs. Deterministic for a seed."""
    rng = random.Random(f"tokenizer-{seed}")
    texts = []
    for _ in range(pairs):
        pair = random_pair(rng)
        texts += [rewriting_prompt(pair.instruction, pair.raw), pair.polite, pair.polite.lower()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, ends: bool) -> PreTrainedTokenizerFast:
    """Save as a Hugging Face tokenizer that begins texts with BOS and, if `ends` (CLIP), ends them with EOS."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if ends else f"{BOS} $A", special_tokens=[(BOS, 1), (EOS, 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=copy, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="right",
        additional_special_tokens=[END_OF_CHUNK, IMAGE_MARK], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast
