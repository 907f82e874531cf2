"""Check whether a distorted text follows its extra command (`commands.py`), as far as that can be counted.

Checks compare the text with the good response. For some commands only "no" can be shown: that no word was exchanged is
countable, that the new word means the same is not. Others, such as `wrong_tenses`, would need a reader.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import combinations, islice
from typing import Literal

from polite_flamingo.distortion.augmentation import sentences
from polite_flamingo.distortion.shorten import key_words, unmarked_text
from polite_flamingo.sources.records.responses import BOXES_FOLLOW

Followed = Literal["yes", "no", "not checkable"]
Check = Callable[[str, str], bool | None]
"""(text, good response) -> whether the command was followed; None if that cannot be determined."""


def followed(command: str, text: str, response: str) -> Followed:
    """Return whether `text`, a distortion of `response`, follows the command. Lines of boxes are ignored."""
    check = CHECKS.get(command)
    found = check(text.partition(BOXES_FOLLOW)[0].strip(), response) if check else None
    return "not checkable" if found is None else "yes" if found else "no"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’.,-]\w+)*", text)


def _vocabulary(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[^\W\d_]+", text)}


def _in_case(convert: Callable[[str], str]) -> Check:
    """Make a check that all letters are in one case, if the script has cases."""
    return lambda text, response: text == convert(text) if text.upper() != text.lower() else None


def _commas(text: str, response: str) -> bool | None:
    items = [item for item in re.split(r"[,，、]", text) if item.strip()]
    if len(items) < 2:
        return None if len(_words(text)) < 3 else False
    return max(len(_words(item)) for item in items) <= 6


def _repetition(text: str, response: str) -> bool:
    said = [word.lower() for word in _words(text)]
    length = min(3, len(said) // 2)
    runs = [tuple(said[start : start + length]) for start in range(len(said) - length + 1)] if length else []
    return len(set(runs)) < len(runs)


def _echo(text: str, response: str) -> bool:
    parts = [Counter(word.lower() for word in _words(part)) for part in sentences(text)]
    for one, other in islice(combinations(filter(None, parts), 2), 200):
        common = (one & other).total()
        if 2 * common >= 0.6 * (one.total() + other.total()) or common == min(one.total(), other.total()):
            return True
    return False


def _reversed(text: str, response: str) -> bool | None:
    """Trace sentences to the response by their words; a single sentence has no order."""
    origins = [_vocabulary(part) for part in sentences(response)]
    said = [_vocabulary(part) for part in sentences(text)]
    if min(len(origins), len(said)) < 2:
        return None
    places = [max(range(len(origins)), key=lambda place: len(part & origins[place])) for part in said]
    if any(not part & origins[place] for part, place in zip(said, places, strict=True)) or len(set(places)) < 2:
        return None
    return places == sorted(places, reverse=True)


def _typos(text: str, response: str) -> bool:
    """Look for a word that is not in the response but close to one of its words, and not just another ending of it."""
    known = _vocabulary(response) | {"answer", "rationale"}
    strangers = [word for word in _vocabulary(text) if len(word) > 2 and word not in known]
    return any(_misspelt(word, one) for word in strangers for one in known)


def _misspelt(word: str, known: str) -> bool:
    longer, shorter = sorted((word, known), key=len, reverse=True)
    if len(shorter) < 3 or len(longer) - len(shorter) > 2:
        return False
    ending = longer[len(shorter) - 1 :] if longer.startswith(shorter[:-1]) else ""
    if ending and re.fullmatch(r"\w?(s|es|d|ed|r|er|ly|ies|ied|n|en|est|ing)?", ending):
        return False
    return SequenceMatcher(None, word, known, autojunk=False).ratio() >= 0.75


def _other_words(text: str, response: str) -> bool | None:
    """Check that any word was exchanged or added; whether it fits cannot be determined."""
    known = _vocabulary(response)
    return None if any(word not in known for word in _vocabulary(text)) else False


def _reworded(text: str, response: str) -> bool | None:
    """Check that most content words are not the response's."""
    said = {word.lower() for word in key_words(text)}
    kept = said & {word.lower() for word in key_words(response)}
    return None if len(kept) <= len(said) / 2 else False


CHECKS: dict[str, Check] = {
    "no_punctuation": lambda text, response: (
        text == text.lower() and not re.search(r"[.,;:!?…\"“”()](?!\d)|[。、，！？；：]", text)
    ),
    "upper_case": _in_case(str.upper),
    "lower_case": _in_case(str.lower),
    "shortest": lambda text, response: len(_words(text)) <= max(5, len(_words(response)) // 4),
    "five_words": lambda text, response: len(_words(text)) == 5,
    "commas": _commas,
    "plain": lambda text, response: "\n" not in text and unmarked_text(text) == text,
    "repetition": _repetition,
    "echo": _echo,
    "reversed": _reversed,
    "typos": _typos,
    # Any summary drops words; a text as long as the response dropped none.
    "drop_words": lambda text, response: None if len(_words(text)) < len(_words(response)) else False,
    "swap_synonyms": _other_words,
    "metaphors": _other_words,
    "irrelevant": _other_words,
    "reworded": _reworded,
}
