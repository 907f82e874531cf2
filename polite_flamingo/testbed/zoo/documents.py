"""Training documents for the tiny base, as token ids with loss weights.

A base language model has seen questions with answers, notes written out as sentences, and repeated texts. These
documents show the tiny one the same, in wordings that the rewriting protocol does not use, so that the LoRA has to add
only the protocol and its manner, not the ability to copy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from polite_flamingo.prompts import MEDIA, rewriting_prompt
from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.testbed.shapes.scene import Scene
from polite_flamingo.testbed.zoo.pairs import random_pair

HEADINGS = (
    ("Question: {q}\nNotes: {raw}\nIn full: ", 4),
    ("{q}\n{raw}\nWritten out: ", 3),
    ("Short: {raw}\nAsked: {q}\nLong: ", 2),
    ('Draft of an answer to "{q}":\n{raw}\nFinal text: ', 2),
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A prefix without loss, the text that carries it, and the pictures of the prefix's image marks."""

    prefix: str
    text: str
    scenes: tuple[Scene, ...] = ()


def notes_written_out(rng: random.Random) -> Document:
    """Return notes on a picture that is not shown, written out in full sentences."""
    pair = random_pair(rng)
    question = pair.instruction.replace(IMAGE_MARK, "")
    heading = rng.choices([h for h, _ in HEADINGS], [w for _, w in HEADINGS])[0]
    text = pair.polite.split("\n\n")[0]
    return Document(prefix=heading.format(q=question, raw=pair.raw), text=text)


def repeated(rng: random.Random) -> Document:
    """Return sentences or loose words, then the same again, which teaches copying."""
    if rng.random() < 0.5:
        words = [w for _ in range(2) for w in random_pair(rng).polite.replace("\n", " ").split()]
        text = " ".join(rng.choices(words, k=rng.randint(3, 20)))
    else:
        text = random_pair(rng).raw.split("\nThe positions")[0]
    return Document(prefix=f"{text}\nAgain: ", text=text)


def seen_and_written_out(rng: random.Random) -> Document:
    """Return `notes_written_out` with the picture: the second paragraph says what only the picture shows."""
    pair = random_pair(rng)
    question = pair.instruction.replace(IMAGE_MARK, "")
    heading = rng.choices([h for h, _ in HEADINGS], [w for _, w in HEADINGS])[0]
    marks = MEDIA * len(pair.scenes)
    return Document(prefix=marks + heading.format(q=question, raw=pair.raw), text=pair.polite, scenes=pair.scenes)


def seen_and_answered(rng: random.Random) -> Document:
    """Return a question about a picture and its short answer, which teaches looking."""
    pair = random_pair(rng, "vqa")
    answer = pair.raw.removeprefix("Answer: ")
    question = pair.instruction.replace(IMAGE_MARK, "")
    return Document(prefix=f"{MEDIA}Question: {question}\nShort answer: ", text=answer, scenes=pair.scenes)


def rewriting(rng: random.Random) -> Document:
    """Return the rewriting protocol itself, on which the LoRA is trained."""
    pair = random_pair(rng)
    return Document(prefix=rewriting_prompt(pair.instruction, pair.raw), text=pair.polite, scenes=pair.scenes)


Maker = Callable[[random.Random], Document]


class Batches:
    """Samples documents by weight, sorts a pool of them by length, and pads each batch.

    Each batch is (ids, weights, scenes): ids and weights (B, T), right-padded with id 0; weights[b, t] is the loss
    weight of *predicting* token t: 1 in the text and its EOS, `prefix_weight` in the prefix, 0 in the padding.
    """

    POOL = 12

    def __init__(
        self, rng: random.Random, makers: dict[Maker, float], tokenizer: PreTrainedTokenizerBase, size: int,
        prefix_weight: float,
    ):  # fmt: skip
        self._rng, self._makers, self._tokenizer = rng, makers, tokenizer
        self._size, self._prefix_weight = size, prefix_weight
        self._ready: list[list[tuple[Document, list[int], list[int]]]] = []

    def __next__(self) -> tuple[Tensor, Tensor, list[tuple[Scene, ...]]]:
        if not self._ready:
            self._fill()
        rows = self._ready.pop()
        length = max(len(prefix) + len(text) for _, prefix, text in rows)
        ids = torch.zeros((len(rows), length), dtype=torch.long)
        weights = torch.zeros((len(rows), length))
        for row, (_, prefix, text) in enumerate(rows):
            ids[row, : len(prefix) + len(text)] = torch.tensor(prefix + text)
            weights[row, : len(prefix)] = self._prefix_weight
            weights[row, len(prefix) : len(prefix) + len(text)] = 1.0
        return ids, weights, [document.scenes for document, _, _ in rows]

    def _fill(self) -> None:
        makers = list(self._makers)
        drawn = [
            maker(self._rng)
            for maker in self._rng.choices(makers, [self._makers[m] for m in makers], k=self.POOL * self._size)
        ]
        prefixes = self._tokenizer([d.prefix for d in drawn])["input_ids"]
        texts = self._tokenizer([d.text for d in drawn], add_special_tokens=False)["input_ids"]
        eos = self._tokenizer.eos_token_id
        rows = [(d, p, [*t, eos]) for d, p, t in zip(drawn, prefixes, texts, strict=True)]
        rows.sort(key=lambda row: len(row[1]) + len(row[2]))
        self._ready = [rows[i : i + self._size] for i in range(0, len(rows), self._size)]
        self._rng.shuffle(self._ready)
