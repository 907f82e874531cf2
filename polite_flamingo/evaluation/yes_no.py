"""Questions that are answered with yes or no: accuracy, F1 and how often a model says yes, by PoPe's rule.

PoPe (Li et al. 2023, arXiv 2305.10355) asks whether an object is in the picture, half of the time truly. Its rule: an
answer whose first sentence has the word No, no or not says no, and any other says yes. A model that always says yes is
right half of the time and has an F1 of 0.67, so the share of yes stands beside both. An empty answer says neither, and
is wrong; by the rule it would be a yes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate, estimates, resampled_means

YES, NO, NEITHER = 1.0, 0.0, 0.5
"""What an answer says, as a number."""

_DENIALS = frozenset({"No", "no", "not"})
_TRUTH = re.compile(r"\s*(yes|no)\s*(?:[.,;:!]|$)", re.IGNORECASE)


def truth_of(annotation: str) -> float | None:
    """Return what an annotation says, such as "yes" or "No, it is red."; None if it does not begin with either."""
    found = _TRUTH.match(annotation)
    return None if found is None else YES if found[1].lower() == "yes" else NO


def said(answer: str) -> float:
    """Return what an answer says by PoPe's rule; NEITHER if it is empty."""
    if not answer.strip():
        return NEITHER
    first = answer.partition(".")[0].replace(",", "")
    return NO if _DENIALS & {*first.split()} else YES


@dataclass(frozen=True, kw_only=True)
class YesNo:
    """One contestant on questions that are answered with yes or no.

    Attributes:
        accuracy: share of right answers.
        f1: of "yes"; None if nobody says yes and it is never true.
        yes_share: share of answers that say yes.
        truth_share: share of questions whose answer is yes.
        words: mean number of words of the answers.
    """

    accuracy: Estimate
    f1: Estimate
    yes_share: Estimate
    truth_share: float
    words: float | None


def yes_no(
    truth_N: np.ndarray, said_CN: np.ndarray, words_CN: np.ndarray, contestants: Sequence[str], resampling: Resampling
) -> dict[str, YesNo]:
    """Measure all contestants on the questions that all of them answered; none if there is no such question.

    Args:
        truth_N: YES or NO; NaN for other questions.
        said_CN: what each contestant says (`said`); NaN without an answer.
        words_CN: numbers of words.
        contestants: names of the rows; those without any answer are left out.
        resampling: how intervals are made; all contestants use the same draws.
    """
    taking_part_C = np.isfinite(said_CN[:, np.isfinite(truth_N)]).any(axis=1)
    where_N = np.isfinite(truth_N) & np.isfinite(said_CN[taking_part_C]).all(axis=0)
    if not where_N.any() or not taking_part_C.any():
        return {}
    truth_N, said_CN, words_CN = truth_N[where_N], said_CN[taking_part_C][:, where_N], words_CN[taking_part_C]
    names = [name for name, one in zip(contestants, taking_part_C, strict=True) if one]
    counts_CJN = np.stack([said_CN == truth_N, said_CN == YES, (said_CN == YES) & (truth_N == YES)], axis=1)
    rows_KN = np.concatenate([counts_CJN.reshape(-1, len(truth_N)).astype(float), (truth_N == YES)[None].astype(float)])
    means_KR = resampled_means(rows_KN, resampling)
    found = estimates(rows_KN, means_KR, resampling.confidence)
    truth = rows_KN[-1].mean()
    made = {}
    for row, name in enumerate(names):
        right, yes, both = 3 * row, 3 * row + 1, 3 * row + 2
        f1_R = _f1(means_KR[both], means_KR[yes], means_KR[-1])
        f1 = float(_f1(rows_KN[both].mean(), rows_KN[yes].mean(), truth))
        spoken_N = words_CN[row, where_N]
        made[name] = YesNo(
            accuracy=found[right],
            f1=estimate(f1 if np.isfinite(f1) else None, f1_R, len(truth_N), resampling.confidence),
            yes_share=found[yes],
            truth_share=float(truth),
            words=float(np.nanmean(spoken_N)) if np.isfinite(spoken_N).any() else None,
        )
    return made


def _f1(both: np.ndarray | float, yes: np.ndarray | float, truth: np.ndarray | float) -> np.ndarray:
    """Return F1 from the shares of right yes, of yes, and of true yes; NaN if there is none of either."""
    total = np.asarray(yes) + np.asarray(truth)
    return np.divide(2 * np.asarray(both), total, out=np.full(total.shape, np.nan), where=total > 0)
