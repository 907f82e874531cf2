"""Shorten a good response without a model: drop courtesies and asides, keep the first clauses and content words.

The rules are for English; texts in other languages are cut to their first sentences or clauses. The rules do not
understand the text, so a key point at the end is lost.
"""

from __future__ import annotations

import random
import re

from polite_flamingo.distortion.augmentation import sentences

MAX_WORDS = 40
"""Most words per sentence of a terse text."""
COURTESIES = re.compile(
    r"(sure( thing)?|certainly|of course|absolutely|great question|good question|thank you[^.!,]*|thanks[^.!,]*|hello"
    r"|hi|i (hope|trust) [^.!]*|i('| a)m (sorry|happy|glad)[^.!,]*|please (let me know|feel free)[^.!]*|feel free[^.!]*"
    r"|let me know[^.!]*|as you (may|might|can) (know|see)|here (is|are) [^.:!]*:|in (summary|conclusion|addition)"
    r"|additionally|furthermore|moreover|overall|however|therefore|in the (image|picture|photo)( we can see)?"
    r"|the (image|picture|photo) (shows|features|depicts|displays))([,.!:]+\s*|\s+|$)",
    re.IGNORECASE,
)
_STOP_WORDS = """
    a an the is are was were be been being am do does did has have had having it its this that these those there here of
    to in on at by for with as from into and or so than then very quite rather really just also too can could may might
    will would shall should which who whom whose what i you he she we they them his her their our your my me us image
    picture photo seen appear appears seem seems various several some such
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_CLAUSE = re.compile(
    r"\s*(?:[;:–—]|,|\b(?:which|because|while|whereas|although|where|suggesting|indicating|making|adding|creating)\b)\s"
)
_MARKUP = re.compile(
    r"```.*?```|^\s*(?:[#>]+|[-*•]|\d{1,3}[.)])\s+|[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}", re.DOTALL | re.MULTILINE
)


def unmarked_text(text: str) -> str:
    """Remove Markdown; a text that is only code or punctuation stays unchanged."""
    return _MARKUP.sub("", text).strip() or text.strip()


def key_words(text: str) -> list[str]:
    """Return the content words, in order; all words if there are none."""
    words = re.findall(r"[^\W_]+(?:['’.,-][^\W_]+)*", text)
    return [word for word in words if word.lower() not in STOP_WORDS] or words


def telegraphic(sentence: str) -> str:
    """Remove stop words and the final full stop; other punctuation stays."""
    kept = [word for word in sentence.split() if re.sub(r"\W", "", word).lower() not in STOP_WORDS]
    return " ".join(kept).strip(" .") or sentence.strip(" .")


def shorten(text: str, rng: random.Random) -> str:
    """Return the text as terse notes; "" only if it has no words."""
    found = [stripped for one in sentences(unmarked_text(text)) if (stripped := strip_courtesies(one))]
    found = found or sentences(text)
    if not found:
        return ""
    kept = found[: min(len(found), rng.choices((1, 2, 3, 5), (5, 3, 2, 1))[0])]
    telegram, clause = rng.random() < 0.7, rng.random() < 0.5
    notes = []
    for sentence in kept:
        note = _CLAUSE.split(sentence, maxsplit=1)[0] if clause else sentence
        note = note if len(note.split()) > 1 or len(sentence.split()) < 3 else sentence
        note = " ".join(note.split()[:MAX_WORDS])
        notes.append(telegraphic(note) if telegram else note.strip(" ."))
    notes = list(dict.fromkeys(filter(None, notes))) or [found[0]]
    said = rng.choice(("\n", "\n", ". ", ", ")).join(notes)
    said = said.lower() if rng.random() < 0.3 else said
    if len(said.split()) <= 4 and rng.random() < 0.5 and not said.lower().startswith("answer"):
        return f"Answer: {said}"
    return said


def strip_courtesies(sentence: str) -> str:
    """Remove polite openings and discourse markers ("Sure!", "In the image we can see") from a sentence."""
    before = None
    while before != sentence:
        before, sentence = sentence, COURTESIES.sub("", sentence, count=1) if COURTESIES.match(sentence) else sentence
    return sentence.strip(" ,!")
