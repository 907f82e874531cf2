"""Training documents for the tiny base, as token ids with loss weights.

A base language model has seen questions with answers, notes written out as sentences, descriptions of pictures, and
repeated texts. These documents show the tiny one the same, in wordings that the rewriting protocol does not use, so
that the LoRA has to add only the protocol and its manner, not the ability to see or to copy.

Looking is learnt from many labels a picture: a description names everything that stands anywhere, and a quiz asks up to
eight questions about one picture, which is encoded once.
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
from polite_flamingo.testbed.shapes.captions import describe, polite_change, terse_captions
from polite_flamingo.testbed.shapes.questions import KINDS, Kind, Question, ask, follow_up
from polite_flamingo.testbed.shapes.scene import Scene, any_scene, random_change
from polite_flamingo.testbed.shapes.texts import drawn, is_reserved, knowledge, told
from polite_flamingo.testbed.zoo.pairs import random_pair

HEADINGS = (
    ("Question: {q}\nNotes: {raw}\nIn full: ", 4),
    ("{q}\n{raw}\nWritten out: ", 3),
    ("Short: {raw}\nAsked: {q}\nLong: ", 2),
    ('Draft of an answer to "{q}":\n{raw}\nFinal text: ', 2),
)

QUIZ = 8
"""Questions in a quiz, at most."""

STEPWISE = 0.3
"""Share of comparisons that come after the places of both things: what to look up, before it is done in one go."""

ANSWER_WEIGHT = 6.0
"""Least loss weight of a whole text, shared among its tokens: a short answer would teach a sixth of a sentence."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Texts to learn, each after a prefix that is given, and the pictures of the image marks."""

    parts: tuple[tuple[str, str], ...]
    scenes: tuple[Scene, ...] = ()


def notes_written_out(rng: random.Random) -> Document:
    """Return notes on a picture that is not shown, written out in full sentences."""
    pair = random_pair(rng)
    question = pair.instruction.replace(IMAGE_MARK, "")
    return Document(parts=((_heading(rng).format(q=question, raw=pair.raw), pair.polite.split("\n\n")[0]),))


def _heading(rng: random.Random) -> str:
    return rng.choices([h for h, _ in HEADINGS], [w for _, w in HEADINGS])[0]


def repeated(rng: random.Random) -> Document:
    """Return sentences or loose words, then the same again, which teaches copying."""
    if rng.random() < 0.5:
        words = [w for _ in range(2) for w in random_pair(rng).polite.replace("\n", " ").split()]
        text = " ".join(rng.choices(words, k=rng.randint(3, 20)))
    else:
        text = random_pair(rng).raw.split("\nThe positions")[0]
    return Document(parts=((f"{text}\nAgain: ", text),))


def read_and_answered(rng: random.Random) -> Document:
    """Return a scene in words, or clues about shapes, with questions and answers: a quiz without a picture."""
    if rng.random() < 0.3:
        asked = drawn(rng, knowledge)
        return Document(parts=((f"{asked.given}\nQuestion: {asked.question}\nShort answer: ", asked.answer),))
    scene = any_scene(rng)
    text = told(rng, scene)
    return Document(parts=_quiz(rng, scene, f"{text}\n", text))


def seen_and_written_out(rng: random.Random) -> Document:
    """Return `notes_written_out` with the picture: the second paragraph says what only the picture shows."""
    pair = random_pair(rng)
    question = pair.instruction.replace(IMAGE_MARK, "")
    marks = MEDIA * len(pair.scenes)
    return Document(parts=((marks + _heading(rng).format(q=question, raw=pair.raw), pair.polite),), scenes=pair.scenes)


def seen_and_answered(rng: random.Random) -> Document:
    """Return questions about one picture with their answers, short or in full, which teaches looking."""
    scene = any_scene(rng)
    return Document(parts=_quiz(rng, scene, MEDIA), scenes=(scene,))


def seen_and_compared(rng: random.Random) -> Document:
    """Return the like, with many questions about several things at once, which are the hardest: how many, and where."""
    scene = any_scene(rng)
    return Document(parts=_quiz(rng, scene, MEDIA, kinds=("count", "beside")), scenes=(scene,))


def _quiz(
    rng: random.Random, scene: Scene, start: str, given: str = "", kinds: tuple[Kind, ...] = KINDS
) -> tuple[tuple[str, str], ...]:
    """Return questions and answers about `scene`; none that is reserved for evaluation, if `given` describes it."""
    parts: list[tuple[str, str]] = []
    if len(scene.things) == 1:
        kinds = KINDS  # nothing to compare
    question: Question | None = None
    wanted = rng.randint(3, QUIZ)
    while len(parts) < wanted:
        following = follow_up(rng, scene, question) if question and rng.random() < 0.4 else None
        question = following or ask(rng, scene, kinds)
        if given and is_reserved(question.text, given):
            continue
        if kinds != KINDS and question.kind == "beside" and rng.random() < STEPWISE:
            for name in (
                f"{question.slots['colour']} {question.slots['shape']}",
                f"{question.slots['colour2']} {question.slots['shape2']}",
            ):
                place = next(thing.place for thing in scene.things if thing.name == name)
                parts.append((f"{start}Question: Where is the {name}?\nShort answer: ", place))
                start = "\n"
        if rng.random() < 0.5:
            parts.append((f"{start}Question: {question.text}\nShort answer: ", question.answer))
        else:
            parts.append((f"{start}Question: {question.text}\nFull answer: ", question.polite(rng.randrange(2))))
        start = "\n"
    return tuple(parts)


def seen_and_described(rng: random.Random) -> Document:
    """Return a picture with its description, or two with their difference, from nothing but looking."""
    if rng.random() < 0.2:
        scene = any_scene(rng)
        after, change = random_change(rng, scene)
        return Document(parts=((f"{MEDIA * 2}Difference: ", polite_change(change)),), scenes=(scene, after))
    scene = any_scene(rng)
    return Document(parts=((f"{MEDIA}Description: ", describe(scene, terse_captions(rng, scene))),), scenes=(scene,))


def rewriting(rng: random.Random) -> Document:
    """Return the rewriting protocol itself, on which the LoRA is trained."""
    pair = random_pair(rng)
    return Document(parts=((rewriting_prompt(pair.instruction, pair.raw), pair.polite),), scenes=pair.scenes)


Maker = Callable[[random.Random], Document]


class Batches:
    """Samples documents by weight, sorts a pool of them by length, and pads each batch.

    Each batch is (ids, weights, scenes): ids and weights (B, T), right-padded with id 0; weights[b, t] is the loss
    weight of *predicting* token t: 1 or more in the texts and their EOS (`ANSWER_WEIGHT`), `prefix_weight` in the
    prefixes, 0 in the padding.
    Batch `i` depends on `seed` and `i` alone, so that a resumed run sees what an uninterrupted one would.
    """

    POOL = 12

    def __init__(
        self, seed: str, makers: dict[Maker, float], tokenizer: PreTrainedTokenizerBase, size: int,
        prefix_weight: float,
    ):  # fmt: skip
        self._seed, self._makers, self._tokenizer = seed, makers, tokenizer
        self._size, self._prefix_weight = size, prefix_weight
        self._pool = -1
        self._rows: list[tuple[list[int], list[float], tuple[Scene, ...]]] = []
        self._order: list[int] = []

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, list[tuple[Scene, ...]]]:
        if i // self.POOL != self._pool:
            self._pool = i // self.POOL
            self._fill(random.Random(f"{self._seed}-{self._pool}"))
        start = self._order[i % self.POOL] * self._size
        rows = self._rows[start : start + self._size]
        length = max(len(ids) for ids, _, _ in rows)
        ids_BT = torch.zeros((len(rows), length), dtype=torch.long)
        weights_BT = torch.zeros((len(rows), length))
        for row, (ids, weights, _) in enumerate(rows):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            weights_BT[row, : len(ids)] = torch.tensor(weights)
        return ids_BT, weights_BT, [scenes for _, _, scenes in rows]

    def _fill(self, rng: random.Random) -> None:
        makers = rng.choices(list(self._makers), list(self._makers.values()), k=self.POOL * self._size)
        self._rows = [self._row(maker(rng)) for maker in makers]
        self._rows.sort(key=lambda row: len(row[0]))
        self._order = rng.sample(range(self.POOL), self.POOL)

    def _row(self, document: Document) -> tuple[list[int], list[float], tuple[Scene, ...]]:
        prefixes = self._tokenizer([prefix for prefix, _ in document.parts], add_special_tokens=False)["input_ids"]
        texts = self._tokenizer([text for _, text in document.parts], add_special_tokens=False)["input_ids"]
        ids, weights = [self._tokenizer.bos_token_id], [0.0]
        for prefix, text in zip(prefixes, texts, strict=True):
            ids += [*prefix, *text, self._tokenizer.eos_token_id]
            weight = max(1.0, ANSWER_WEIGHT / (len(text) + 1))
            weights += [self._prefix_weight] * len(prefix) + [weight] * (len(text) + 1)
        return ids, weights, document.scenes
