"""Words and characters of texts in any script, so that thresholds made for English keep their meaning.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few others put no spaces between words. Their letters are units of
their own, and their words are estimated from the letters: no dictionary is needed, and every text has a number. A text
without such letters counts as it always did: words are what white space separates.
"""

from __future__ import annotations

import math
import re
import unicodedata

import regex

_IDEOGRAPHIC = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
"""Han, Hiragana, Katakana and Bopomofo."""

_COMPLEX = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f\u1780-\u17d3"
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c"
)
"""Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue and Tai Tham: letters and marks, not digits (Unicode's line breaking
class Complex_Context)."""

LETTERS_PER_WORD = {"ideographic": 1.5, "complex": 3.0}
"""Ours: so many letters, without marks, say about as much as an English word. 这是红色 (this is red) has 3 words."""

_SPACELESS = re.compile(f"[{_IDEOGRAPHIC}{_COMPLEX}]")
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHIC}]")
_WIDE = re.compile(f"[{_IDEOGRAPHIC}\uac00-\ud7a3]")
"""Letters that stand for a syllable or more, Korean ones too."""

_WORD = regex.compile(r"[\w\p{M}\p{No}]+")
_UNIT = regex.compile(
    rf"[{_IDEOGRAPHIC}{_COMPLEX}]\p{{M}}*|(?:(?![{_IDEOGRAPHIC}{_COMPLEX}])[\w\p{{M}}\p{{No}}])+"
)  # fmt: skip


def count_words(text: str) -> int:
    """Count words: those between white space, and an estimate for letters of scripts without spaces."""
    letters = _letters(text)
    if not letters:
        return len(text.split())
    spaced = sum(any(map(str.isalnum, piece)) for piece in _SPACELESS.sub(" ", text).split())
    return spaced + math.ceil(_estimate(letters))


def count_characters(text: str) -> int:
    """Count characters without surrounding white space; a character for a whole syllable or word counts as two."""
    text = text.strip()
    return len(text) + len(_WIDE.findall(text))


def units(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation; of scripts without spaces, the letters."""
    found: list[str] = (_UNIT if _SPACELESS.search(text) else _WORD).findall(text.lower())
    return found


def units_per_word(text: str) -> float:
    """Return how many `units` a word of this text has: 1 with spaces between words, else more."""
    letters = _letters(text)
    if not letters:
        return 1.0
    spaced = len(_WORD.findall(_SPACELESS.sub(" ", text)))
    return (spaced + len(letters)) / (spaced + _estimate(letters))


def _letters(text: str) -> list[str]:
    return [letter for letter in _SPACELESS.findall(text) if unicodedata.category(letter)[0] in "LN"]


def _estimate(letters: list[str]) -> float:
    ideographs = sum(_IDEOGRAPH.match(letter) is not None for letter in letters)
    complex_ones = len(letters) - ideographs
    return ideographs / LETTERS_PER_WORD["ideographic"] + complex_ones / LETTERS_PER_WORD["complex"]
