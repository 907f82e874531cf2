"""The language of a text, for filters whose model knows only some: they say so instead of scoring.

py3langid finds it, offline, with a model inside its wheel (https://github.com/adbar/py3langid, BSD-3-Clause); it is
needed only if a profile lists languages. Short texts in Latin script look alike in many languages: if it is not sure, a
text counts as known and is scored, as it would be without a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

SURE = 0.5
"""Least probability; below it the language is unknown. The library's are calibrated. Ours."""

UNKNOWN = "und"
"""ISO 639's code for an undetermined language."""

_PART_OF = {"wuu": "zh", "yue": "zh", "gan": "zh", "hak": "zh", "nan": "zh", "lzh": "zh", "cdo": "zh", "zxx": UNKNOWN}
"""Languages that are written as another one in short texts; zxx is no language, such as numbers."""

LISTED = {"sts": "sts", "nli": "nli", "clip": "clipscore", "reward": "reward"}
"""Model in `ScoringConfig.languages` -> filter that it is of."""


def language_of(text: str) -> str:
    """Return the ISO 639 code of a text's language, such as en or zh; `UNKNOWN` if that is not sure."""
    return _language_of(text) if any(map(str.isalpha, text)) else UNKNOWN


class Languages:
    """Which languages the models know.

    Args:
        known: model -> codes of languages; a model that is not listed knows all.

    Raises:
        ValueError: it names another model.
        ModuleNotFoundError: py3langid is not installed.
    """

    def __init__(self, known: Mapping[str, Sequence[str]]):
        check_languages(known)
        self._known = {LISTED[model]: frozenset(codes) for model, codes in known.items() if codes}
        if self._known:
            _identifier()

    def strange_to(self, filter_name: str, texts: Iterable[str]) -> str:
        """Return the language that a filter's model does not know, such as "language zh"; "" if it knows all texts."""
        known = self._known.get(filter_name)
        if known is None:
            return ""
        found = (language_of(text) for text in texts)
        return next((f"language {one}" for one in found if one != UNKNOWN and one not in known), "")


def check_languages(known: Mapping[str, Sequence[str]]) -> None:
    """Raise `ValueError` for a model that is none, and for what is no code: no text would be in that language."""
    if strange := set(known) - set(LISTED):
        raise ValueError(f"languages: {', '.join(sorted(strange))} is no model; known are {', '.join(LISTED)}")
    for code in (code for codes in known.values() for code in codes):
        if not re.fullmatch(r"[a-z]{2,3}", code):
            raise ValueError(f"languages: {code!r} is no code of ISO 639, such as en or zh")


@lru_cache(maxsize=1 << 14)
def _language_of(text: str) -> str:
    language, probability = _identifier().classify(text[:2000])
    return _PART_OF.get(language, language) if probability >= SURE else UNKNOWN


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
