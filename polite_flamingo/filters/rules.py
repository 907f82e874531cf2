"""Rules, the filter without a model: length, unchanged texts, endless repetition.

[PF] filters texts that are too short, too long, unchanged or endlessly repetitive, but gives no formulas; these are
ours. The thresholds are in `thresholds.py`, and `scripts.py` counts words and characters of every script.
"""

from __future__ import annotations

from polite_flamingo.filters.rouge_l import rouge_l
from polite_flamingo.filters.scripts import count_characters, count_words, units, units_per_word

NGRAM = 4
"""Words of a phrase that counts as repeated; shorter ones repeat in honest lists ("a red circle, a red square")."""


def rules(*, original: str, rewritten: str) -> dict[str, float]:
    """Return the entries of `Sample.scores` that the rules need: counts, `same_text`, and shares from 0 to 1."""
    return {
        "words": count_words(rewritten),
        "characters": count_characters(rewritten),
        "same_text": same_text(original, rewritten),
        "rouge_l": round(rouge_l(target=original, prediction=rewritten).f1, 4),
        "repetition": round(repetition(rewritten), 4),
    }


def same_text(original: str, rewritten: str) -> bool:
    """Whether two texts have the same words, ignoring case, punctuation, white space and a leading `Answer:`."""
    return _plain(original) == _plain(rewritten)


def repetition(text: str) -> float:
    """Return the share of word 4-grams that occurred earlier in the text: 0 for prose, near 1 for an endless loop.

    Of a script without spaces, as many letters as four words have stand for a 4-gram.
    """
    found, length = units(text), round(NGRAM * units_per_word(text))
    grams = [tuple(found[i : i + length]) for i in range(len(found) - length + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _plain(text: str) -> str:
    words = units(text)
    return " ".join(words[1:] if words[:1] == ["answer"] else words)
