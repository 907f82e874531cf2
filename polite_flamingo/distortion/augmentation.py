"""Random text augmentation of sentences, characters and words with nlpaug, each with probability one half.

    sentences   only the first few are kept; they are shuffled and joined by nothing or by line breaks
    characters  insert, substitute, swap or delete, at random rates per word and per character
    words       delete, swap or crop, at a random rate

This is what the paper does (section 3.1), with random rates where it leaves them open. nlpaug uses the global random
generators of Python and numpy, so they are seeded for the call and restored. None of its dictionaries or models is
used, so nothing is ever downloaded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

CHARACTER_ACTIONS = ("insert", "substitute", "swap", "delete")
WORD_ACTIONS = ("delete", "swap", "crop")
PROBABILITY = 0.5
MAX_WORDS = 400
"""Most words to change in one text: nlpaug's time grows with the square of their number."""
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_TOKEN = re.compile(r"\w+|[^\w\s]|\n")


def sentences(text: str) -> list[str]:
    """Split a text into sentences and lines, stripped. (nltk's splitter would have to be downloaded.)"""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def augment(text: str, seed: str) -> tuple[str, dict[str, Any]]:
    """Return a distorted text and what was done to it; deterministic for a seed.

    The result may be empty or equal to `text`; the caller decides whether to try again.
    """
    rng = random.Random(seed)
    done: dict[str, Any] = {}
    if rng.random() < PROBABILITY:
        text, done["keep_first"] = _prefix(rng, text)
    if rng.random() < PROBABILITY:
        text, done["shuffled"] = _shuffled(rng, text)
    if rng.random() < PROBABILITY:
        text, done["characters"] = _characters(rng, text)
    if rng.random() < PROBABILITY:
        text, done["words"] = _words(rng, text)
    return text, done


def _prefix(rng: random.Random, text: str) -> tuple[str, int]:
    """Return the first sentences, with whatever was between them, and their number."""
    ends = [match.start() for match in _SENTENCE.finditer(text) if text[: match.start()].strip()]
    kept = rng.randint(1, len(ends) + 1)
    return (text[: ends[kept - 1]] if kept <= len(ends) else text), kept


def _shuffled(rng: random.Random, text: str) -> tuple[str, str]:
    parts = sentences(text)
    rng.shuffle(parts)
    joint = rng.choice(("", "\n"))
    return joint.join(parts), "lines" if joint else "joined"


def _characters(rng: random.Random, text: str) -> tuple[str, dict[str, Any]]:
    from nlpaug.augmenter.char import RandomCharAug

    done = {
        "action": rng.choice(CHARACTER_ACTIONS),
        "word_rate": round(rng.uniform(0.05, 0.5), 3),
        "rate": round(rng.uniform(0.05, 0.5), 3),
    }
    rates = {"aug_char_p": done["rate"], "aug_word_p": done["word_rate"]}
    limits = {"aug_word_max": MAX_WORDS, "aug_char_max": None}
    return _run(rng, text, RandomCharAug, action=done["action"], **rates, **limits), done


def _words(rng: random.Random, text: str) -> tuple[str, dict[str, Any]]:
    from nlpaug.augmenter.word import RandomWordAug

    done = {"action": rng.choice(WORD_ACTIONS), "rate": round(rng.uniform(0.05, 0.5), 3)}
    crop = done["action"] == "crop"
    if len(_tokens(text)) < (3 if crop else 2):
        return text, done  # nlpaug's crop fails on so few words, and deleting a single word leaves nothing
    limits = {"aug_min": 2 if crop else 1, "aug_max": MAX_WORDS}
    return _run(rng, text, RandomWordAug, action=done["action"], aug_p=done["rate"], **limits), done


def _run(rng: random.Random, text: str, augmenter: Callable[..., Any], **options: Any) -> str:
    with seeded(rng.getrandbits(32)):
        found = augmenter(**options, tokenizer=_tokens, reverse_tokenizer=_joined).augment(text)
    return found[0] if found else text


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, and restore them afterwards."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _tokens(text: str) -> list[str]:
    """Split into words, punctuation and line breaks; nlpaug's tokenizer would lose the last."""
    return _TOKEN.findall(text)


def _joined(tokens: list[str]) -> str:
    """Undo `_tokens`, except for the number of blanks."""
    text = " ".join(token for token in tokens if token)
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r" (?=[.,:;?!%)\]}’])|(?<=[(\[{‘]) ", "", text)
    return re.sub(r"(?<=\w) ?(['-]) ?(?=\w)", r"\1", text)
