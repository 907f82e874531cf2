"""What a sample asks: a pool of wordings a task, one of them chosen by the sample's key.

Captions, class labels and changes come without a question, so one is supplied. The choice hangs on the key alone
(sha256, so it is the same in every process and on every run). VQA keeps the dataset's own question and has no pool,
except where it is not a question but a statement.
The synthetic world and the training of the tiny rewriter read the very same pools: a wording added here is one that
the tiny models have not seen until they are trained again.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence

from polite_flamingo.sample import IMAGE_MARK

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "captioning": (
        "Describe the image in detail.",
        "Please describe this picture.",
        "What can you see in this image?",
        "Write a detailed description of the image.",
        "What does the picture show?",
        "Tell me about this image.",
    ),
    "classification": (
        "What is this?",
        "What is shown here?",
        "Can you tell me what this is?",
        "What is the main thing in this picture?",
        "Please name what you see here.",
    ),
    "change_captioning": (
        "What has changed between the two images?",
        "What is different in the second image?",
        "Describe the changes from the first image to the second.",
        "Compare the two images.",
        "What are the differences between these pictures?",
    ),
}

STATEMENTS = (
    'Is the statement "{}" correct?',
    'Is this statement true: "{}"?',
    'Someone says: "{}" Is that right?',
    'Judging by what is shown, is "{}" true?',
    'Does "{}" agree with what you see?',
    'Would you say that "{}" is a correct description?',
)
"""The ways to ask whether a statement is true."""

IMAGES_SHOWN = {"captioning": 1, "classification": 1, "change_captioning": 2}


def instruction(task: str, key: str) -> str:
    """The instruction of the sample `key` of a task that has a pool: image marks, then one of the pool's wordings."""
    return ask(_pick(INSTRUCTIONS[task], key), images=IMAGES_SHOWN[task])


def _pick(pool: Sequence[str], key: str) -> str:
    digest = hashlib.sha256(key.encode()).digest()
    return pool[int.from_bytes(digest[:8], "big") % len(pool)]


def ask(question: str, *, images: int = 1) -> str:
    """A question about `images` images: their marks, then the question, stripped."""
    return IMAGE_MARK * images + question.strip()


def ask_whether(statement: str, key: str, *, images: int = 1) -> str:
    """The question whether a statement about `images` images is true."""
    return ask(_pick(STATEMENTS, key).replace("{}", statement.strip()), images=images)


def choose(question: str, options: Sequence[str], hint: str = "") -> str:
    """A hint if there is one, the question, and the answers to choose from, at most 26: each of them a line."""
    return "\n".join([*([hint] if hint else []), question, *(f"{option(n)} {text}" for n, text in enumerate(options))])


def option(index: int) -> str:
    """How the answers to choose from are called: (A), (B), …, the first being 0."""
    return f"({string.ascii_uppercase[index]})"
