"""Rules that distort a terse text as an extra command says (`commands.py`), without a language model.

Five commands have no rule and are never given to the rule-based speaker: swap_synonyms, reworded, complex, ambiguous,
metaphors. Lines of boxes stay unchanged: they are measurements, not wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from polite_flamingo.distortion.augmentation import sentences
from polite_flamingo.distortion.shorten import key_words, unmarked_text
from polite_flamingo.sources.records.responses import BOXES_FOLLOW

Rule = Callable[[random.Random, str], str]

_TENSES = {
    "is": "was", "are": "were", "was": "will be", "were": "will be", "has": "had", "have": "had", "does": "did",
    "do": "did", "shows": "showed", "show": "showed", "can": "could", "will": "would", "turns": "turned",
    "goes": "went", "moves": "moved", "appears": "appeared", "sees": "saw", "see": "saw",
}  # fmt: skip
_GRAMMAR = {
    "is": "are", "are": "is", "has": "have", "have": "has", "was": "were", "were": "was", "does": "do", "a": "an",
    "an": "a", "there": "their", "it's": "its", "shows": "show", "moves": "move", "goes": "go", "turns": "turn",
}  # fmt: skip
_ASIDES = (
    "It may rain tomorrow.", "Bread is baked in the morning.", "The number seven is odd.", "Trains are sometimes late.",
    "Tea tastes best when hot.", "A week has seven days.", "Some people collect stamps.", "The sea is salty.",
)  # fmt: skip
_CASUAL = ("lol", "idk", "tbh", "whatever", "ya know", "or smth", "i guess")
_WORDY = (
    "It can be said, if one wishes to say it, that {}",
    "With regard to what was asked, one has to state the following: {}",
    "In point of fact, and to put it in so many words, {}",
)


def follow(command: str, text: str, rng: random.Random) -> str:
    """Apply a command's rule to a text. Raises `KeyError` if it has none."""
    words, marker, boxes = text.partition(BOXES_FOLLOW)
    changed = RULES[command](rng, words.strip())
    return f"{changed}\n{marker}{boxes}" if marker else changed


def _typos(rng: random.Random, text: str) -> str:
    words = [match.start() for match in re.finditer(r"[^\W\d_]{3,}", text)]
    wrong = set(rng.sample(words, -(-2 * len(words) // 5)))  # two in five, at least one

    def misspelt(match: re.Match[str]) -> str:
        word = match[0]
        if match.start() not in wrong:
            return word
        way, different = rng.randrange(3), [n for n in range(len(word) - 1) if word[n] != word[n + 1]]
        at = rng.choice(different) if different and way == 0 else rng.randrange(len(word) - 1)
        if way == 0 and different:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return word[:at] + word[at + 1 :] if way == 1 else word[: at + 1] + word[at:]

    return re.sub(r"[^\W\d_]{3,}", misspelt, text)


def _exchanged(words: dict[str, str]) -> Rule:
    def rule(rng: random.Random, text: str) -> str:
        return re.sub(r"[\w']+", lambda match: words.get(match[0].lower(), match[0]), text)

    return rule


def _grammar(rng: random.Random, text: str) -> str:
    text = _exchanged(_GRAMMAR)(rng, text)
    return re.sub(r"\bthe ", lambda match: match[0] if rng.random() < 0.5 else "", text, flags=re.IGNORECASE)


def _drop_words(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    if len(lines) > 1 and rng.random() < 0.5:
        del lines[rng.randrange(len(lines))]
        text = "\n".join(lines)
    words = re.findall(r"\S+\s*", text)
    gone = set(rng.sample(range(len(words)), max(1, len(words) // 4))) if len(words) > 1 else set()
    return "".join(word for place, word in enumerate(words) if place not in gone).strip()


def _rearranged(rng: random.Random, text: str) -> str:
    def turned(line: str) -> str:
        words = line.split()
        at = rng.randint(1, len(words) - 1) if len(words) > 1 else 0
        return " ".join(words[at:] + words[:at])

    return "\n".join(map(turned, text.split("\n")))


def _irrelevant(rng: random.Random, text: str) -> str:
    parts = [text, rng.choice(_ASIDES)]
    rng.shuffle(parts)
    return "\n".join(parts)


def _echo(rng: random.Random, text: str) -> str:
    said = sentences(text)
    return f"{text}\n{rng.choice(('again', 'as said', 'so', 'I mean'))}: {rng.choice(said).rstrip('.').lower()}"


def _incoherent(rng: random.Random, text: str) -> str:
    parts = sentences(text)
    if len(parts) < 2:
        parts = text.split()
        rng.shuffle(parts)
        return " ".join(parts)
    rng.shuffle(parts)
    return " ".join(part.rstrip(".") for part in parts)


def _key_words(limit: int | None, separator: str) -> Rule:
    def rule(rng: random.Random, text: str) -> str:
        words = key_words(re.sub(r"^(Answer|Rationale):", "", text, flags=re.MULTILINE))
        return separator.join(words[:limit]) or text

    return rule


RULES: dict[str, Rule] = {
    "no_punctuation": lambda rng, text: re.sub(r"[^\w\s]|_", "", text).lower(),
    "typos": _typos,
    "grammar_errors": _grammar,
    "drop_words": _drop_words,
    "upper_case": lambda rng, text: text.upper(),
    "lower_case": lambda rng, text: text.lower(),
    "repetition": lambda rng, text: rng.choice(("\n", " ", ", ")).join([text] * rng.randint(2, 3)),
    "rearranged": _rearranged,
    "wrong_tenses": _exchanged(_TENSES),
    "wordy": lambda rng, text: rng.choice(_WORDY).format(text),
    "shortest": _key_words(3, " "),
    "commas": _key_words(None, ", "),
    "plain": lambda rng, text: " ".join(unmarked_text(text).split()),
    "reversed": lambda rng, text: "\n".join(reversed(sentences(text))),
    "casual": lambda rng, text: f"{text.lower().rstrip('.')} {rng.choice(_CASUAL)}",
    "irrelevant": _irrelevant,
    "echo": _echo,
    "five_words": _key_words(5, " "),
    "incoherent": _incoherent,
}
