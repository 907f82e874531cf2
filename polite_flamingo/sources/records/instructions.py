"""The instruction of a sample: one of several wordings for its task, chosen by the sample's key.

Captions, class labels and changes come without a question, so one is supplied. The choice depends only on the key
(sha256), so it is the same in every process and every run. VQA keeps the dataset's own question and has no wordings.
If a mark is drawn on the image (`drawn_marks.py`), the wording names it: `{colour}`, `{shape}` and `{question}` are
filled in. A statement to be judged fills `{statement}`.
The synthetic world and the training of the tiny rewriter read these same wordings. The tiny models have not seen a new
one until they are retrained.
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
    "image_editing": (
        "What edit turns the first image into the second?",
        "How was the first picture edited to give the second?",
        "What would you ask an editor to do to get the second image from the first?",
        "Write the request that leads from the first picture to the second.",
        "Which changes to the first image are needed to obtain the second one?",
        "Give the editing instruction that was carried out between these two pictures.",
    ),
    "region": (
        "Describe the object inside the {colour} {shape}.",
        "What is inside the {colour} {shape}?",
        "Please describe what the {colour} {shape} surrounds.",
        "Tell me about the thing in the {colour} {shape}.",
        "How would you describe the object that the {colour} {shape} marks?",
        "There is a {colour} {shape} on the image. What is inside it?",
    ),
    "pointing": (
        "{question} The {colour} arrow points at what is meant.",
        "Look at the place that the {colour} arrow points at. {question}",
        "{question} This is about what the {colour} arrow points at.",
        "See where the {colour} arrow points. {question}",
        "{question} The tip of the {colour} arrow shows what the question refers to.",
        "The {colour} arrow marks what I am asking about. {question}",
    ),
    "statement": (
        'Is the statement "{statement}" correct?',
        'Is this true of the image: "{statement}"?',
        'Someone says of this picture: "{statement}" Is that right?',
        'Judging by the image, is "{statement}" true?',
        'Does "{statement}" agree with what you see?',
        'Would you say that "{statement}" describes the picture correctly?',
    ),
    "pair_statement": (
        'Is the statement "{statement}" correct?',
        'Is this true of the two images: "{statement}"?',
        'Someone says of these pictures: "{statement}" Is that right?',
        'Judging by both images, is "{statement}" true?',
        'The first image is the left one. Does "{statement}" agree with what you see?',
        'Would you say that "{statement}" describes the two pictures correctly?',
    ),
}

IMAGES_SHOWN = dict.fromkeys(INSTRUCTIONS, 1) | {"change_captioning": 2, "image_editing": 2, "pair_statement": 2}


def instruction(task: str, key: str, **words: str) -> str:
    """Write the instruction of the sample `key`: image marks, then one of the wordings for its task.

    Args:
        task: one of `INSTRUCTIONS`.
        key: the sample's key.
        words: what replaces each `{name}` in the wording, in this order (so a text that may hold braces comes last).
    """
    wording = pick(INSTRUCTIONS[task], key)
    for name, word in words.items():
        wording = wording.replace(f"{{{name}}}", word)
    return with_image_marks(wording, images=IMAGES_SHOWN[task])


def pick(pool: Sequence[str], key: str, what: str = "") -> str:
    """Choose one of the pool for the sample `key`, separately for each `what`."""
    digest = hashlib.sha256((key + what).encode()).digest()
    return pool[int.from_bytes(digest[:8], "big") % len(pool)]


def with_image_marks(question: str, *, images: int = 1) -> str:
    """Write a question about `images` images: their marks, then the question, stripped."""
    return IMAGE_MARK * images + question.strip()


def multiple_choice(question: str, options: Sequence[str], hint: str = "") -> str:
    """Write a hint if there is one, the question, and at most 26 answers to choose from, one per line."""
    return "\n".join(
        [*([hint] if hint else []), question, *(f"{option_letter(n)} {text}" for n, text in enumerate(options))]
    )


def listed_options(question: str) -> tuple[str, ...]:
    """Return the answers to choose from that `multiple_choice` wrote at the end of a question; () if there are none."""
    lines = question.split("\n")
    first = f"{option_letter(0)} "
    starts = [number for number, line in enumerate(lines) if line.startswith(first)]
    if not starts:
        return ()
    options = lines[starts[-1] :]
    marked = [(f"{option_letter(number)} ", line) for number, line in enumerate(options[: len(string.ascii_uppercase)])]
    if len(options) > len(marked) or not all(line.startswith(letter) for letter, line in marked):
        return ()
    return tuple(line.removeprefix(letter) for letter, line in marked)


def option_letter(index: int) -> str:
    """Return the letter of an answer to choose from: (A) for 0, (B) for 1, …"""
    return f"({string.ascii_uppercase[index]})"
