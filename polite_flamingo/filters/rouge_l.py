"""Rouge-L as the reference computes it: F1 of the longest common subsequence of `rouge_score`'s stemmed tokens.

Of texts in Latin script the numbers equal those of `rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)` exactly; a
test compares them on arbitrary texts. Of other scripts the package sees nothing, so that all texts look alike to it:
here their words count too, or the letters of a script without spaces. The package fills a table of len(target) x
len(prediction) integers, which for a long annotation takes minutes and gigabytes. Here one row of bits suffices (Hyyrö
2004), and words are stemmed once.

Rouge-L reads the rewritten text before paragraphs are removed, and the whole annotation (including "Answer: " and
bounding boxes). Only this reproduces the values printed in the reference's readme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from polite_flamingo.filters.scripts import units

_OTHER_SCRIPT = re.compile(
    "[\u0370-\u1dff\u1f00-\u1fff\u2e80-\ud7ff\uf900-\ufaff\ufb13-\ufdff\ufe70-\ufefc\uff66-\uffdc"
    "\U00010000-\U0001bfff\U00020000-\U0003ffff]"
)
_LATIN = "\u00aa\u00b5\u00ba\u00c0-\u036f\u1e00-\u1eff"
_SPLIT = re.compile(rf"[a-z0-9]+|[^\x00-\x7f{_LATIN}]+")
"""Within a word: runs of a-z and 0-9, as in the package, and runs of other scripts."""


@dataclass(frozen=True, kw_only=True)
class RougeL:
    """Numbers in [0, 1]: `precision` over the prediction's tokens, `recall` over the target's."""

    precision: float
    recall: float
    f1: float


def rouge_l(*, target: str, prediction: str) -> RougeL:
    """Compare two texts; all zero if either has no tokens."""
    targets, predictions = tokens(target), tokens(prediction)
    if not targets or not predictions:
        return RougeL(precision=0.0, recall=0.0, f1=0.0)
    common = common_subsequence(targets, predictions)
    precision, recall = common / len(predictions), common / len(targets)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return RougeL(precision=precision, recall=recall, f1=f1)


def tokens(text: str) -> list[str]:
    """Tokenise: lower-case, split at anything but a-z and 0-9, and stem words of more than three characters.

    Words of other scripts than Latin are tokens as they are, and each letter of a script without spaces is one.
    """
    if _OTHER_SCRIPT.search(text):
        found = [token for unit in units(text) for token in _SPLIT.findall(unit)]
    else:
        from rouge_score import tokenize

        found = tokenize.tokenize(text, None)
    return [_stem(token) if len(token) > 3 and token.isascii() else token for token in found]


def common_subsequence(a: list[str], b: list[str]) -> int:
    """Return the length of the longest common subsequence, with one bit per word of `a`; O(len(a) * len(b) / 64)."""
    where: dict[str, int] = {}
    for index, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        match = row & where.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(a) - row.bit_count()


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))
