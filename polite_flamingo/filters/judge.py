"""Thresholds and verdicts: what the scores of a sample mean. Pure arithmetic: no model, no text is read here.

Scores are computed once, for every sample (`scorer.py`); any other set of thresholds is judged again from them in
microseconds. `CHECKS` is the paper's order: rules, STS, CLIPScore, NLI. The first failing check is a sample's reason in
the funnel, but every check that applies gives its verdict, so that "what else was wrong?" can be answered too.

Sources: [PF] "Visual Instruction Tuning with Polite Flamingo", arXiv 2307.01003; [R] readme of its repository.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polite_flamingo.sample import Sample, Verdict

FILTERS: dict[str, tuple[str, ...]] = {
    "captioning": ("rules", "sts", "clipscore"),
    "classification": ("rules", "sts"),
    "change_captioning": ("rules", "sts"),
    "vqa_rationale": ("rules", "nli"),
    "vqa": ("rules", "nli"),
    "text": ("rules",),
    "dialogue": ("rules",),
}
"""Which stage judges which task: semantics by STS where the answer is a description, by NLI where it is an answer; [PF]
scores paragraphs against the image for captions only, and has no check for the pictures of two moments."""

UNSCORED = "unscored"


def not_compared(tasks: Mapping[str, int]) -> str:
    """One line on the rows whose task has rules alone; "" where there are none.

    Args:
        tasks: how many rows there are of each task.
    """
    found = {task: count for task, count in tasks.items() if count and FILTERS.get(task) == ("rules",)}
    if not found:
        return ""
    return (
        f"{sum(found.values()):,} rows of task {' and '.join(sorted(found))} were judged by rules alone: no filter "
        "compares what was written with the annotation or the picture. Where they are questions or captions, say so at "
        "ingest (--extra task=vqa)."
    )


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where each filter cuts. The paper's value where it gives one; the others are ours and say so.

    Attributes:
        min_words: fewer whitespace-separated words are `too_short`. [PF] filters by length without stating a number.
        max_words: more are `too_long`. Ours: the reference generates at most 1024 tokens.
        min_characters: fewer characters are `too_short`. Ours.
        max_characters: more are `too_long`; catches the endless word that has no blank in it. Ours.
        unchanged: Rouge-L against the annotation from which a text counts as not rewritten. [PF] drops the unchanged;
            [R] stores Rouge-L without a cut-off.
        repetition: share of repeated 4-grams from which a text counts as endless repetition. Ours; [PF] names the
            failure.
        sts: cosine similarity to the annotation, kept from here on. [R] "scores below a threshold of 0.40".
        clip: CLIPScore of a paragraph, kept from here on. [R] "lower than a threshold of 17.0".
        clip_single: judge a text of one paragraph as well. [R] scores only texts with a blank line in them.
        nli_margin: how far the better of entailment and neutral must lie above contradiction (logits), exclusive.
            0 is [R]'s rule: drop where contradiction is the (first) maximum.
        nli_entailment: how far entailment must lie above both others (logits), exclusive: with 0 only answers are kept
            that NLI finds entailed. Not asked by default, as in [PF], which keeps the neutral too. Ours.
    """

    min_words: int = 3
    max_words: int = 600
    min_characters: int = 8
    max_characters: int = 5000
    unchanged: float = 0.95
    repetition: float = 0.5
    sts: float = 0.40
    clip: float = 17.0
    clip_single: bool = False
    nli_margin: float = 0.0
    nli_entailment: float | None = None


Sense = Literal["at_least", "at_most", "below", "above"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number against one threshold.

    Attributes:
        filter: name of the check and of its field in `Thresholds`.
        stage: one of rules, sts, clipscore, nli; a task's stages are in `FILTERS`.
        reason: the rejection's stable word.
        sense: the score is kept when it is `sense` the threshold, and always where the threshold is None.
        score: the number, NaN where it is missing, None where the check does not apply to this sample.
        label: what the number is, for people.
        step: resolution of the number in histograms and what-if curves.
        offered: where the check would cut, of one that is not asked by default; its what-if curve shows it there.
    """

    filter: str
    stage: str
    reason: str
    sense: Sense
    score: Callable[[Mapping[str, Any], Thresholds], float | None]
    label: str
    step: float
    offered: float | None = None

    def passes(self, score: float, threshold: float | None) -> bool:
        """Whether `score` is kept; NaN never is, unless nothing is asked (None)."""
        if threshold is None:
            return True
        match self.sense:
            case "at_least":
                return score >= threshold
            case "at_most":
                return score <= threshold
            case "below":
                return score < threshold
            case "above":
                return score > threshold

    def rule(self, threshold: float | None) -> str:
        """The check in words, without its number's name: "kept from 0.4"."""
        if threshold is None:
            return "not asked"
        words = {"at_least": "kept from", "at_most": "kept up to", "below": "kept below", "above": "kept above"}
        return f"{words[self.sense]} {threshold:g}"

    def distance(self, score: float, threshold: float) -> float:
        """How far on the good side the score lies; negative on the bad one, infinitely bad when unscored."""
        if math.isnan(score):
            return -math.inf
        return score - threshold if self.sense in ("at_least", "above") else threshold - score


def _number(value: Any) -> float:
    """A finite float, or NaN for everything that is none: a missing score must never look like a good one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def _field(name: str) -> Callable[[Mapping[str, Any], Thresholds], float | None]:
    return lambda scores, thresholds: _number(scores.get(name))


def _sameness(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    return 1.0 if scores.get("same_text") is True else _number(scores.get("rouge_l"))


def _best_paragraph(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    """A sample lives while one paragraph does. One unscored paragraph makes the sample unscored."""
    paragraphs = scores.get("clip_paragraphs")
    if not isinstance(paragraphs, list | tuple) or not paragraphs:
        return math.nan
    if len(paragraphs) == 1 and not thresholds.clip_single:
        return None
    numbers = [_number(value) for value in paragraphs]
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def nli_margin(logits: Any) -> float:
    """max(entailment, neutral) - contradiction of [contradiction, entailment, neutral] logits; NaN if they are none.

    Positive exactly where contradiction is not the first maximum.
    """
    contradiction, entailment, neutral = _logits(logits)
    return round(max(entailment, neutral) - contradiction, 4)


def entailment_margin(logits: Any) -> float:
    """entailment - max(contradiction, neutral) of the same logits; NaN if they are none.

    Positive exactly where entailment is the only maximum.
    """
    contradiction, entailment, neutral = _logits(logits)
    return round(entailment - max(contradiction, neutral), 4)


def _logits(logits: Any) -> tuple[float, float, float]:
    """Three numbers; all NaN where one of them is missing, so that no arithmetic on them looks like a score."""
    if not isinstance(logits, list | tuple) or len(logits) != 3:
        return math.nan, math.nan, math.nan
    contradiction, entailment, neutral = map(_number, logits)
    if any(map(math.isnan, (contradiction, entailment, neutral))):
        return math.nan, math.nan, math.nan
    return contradiction, entailment, neutral


def _contradiction(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    return nli_margin(scores.get("nli"))


def _entailment(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    return entailment_margin(scores.get("nli"))


CHECKS: tuple[Check, ...] = (
    Check(filter="min_words", stage="rules", reason="too_short", sense="at_least", score=_field("words"),
          label="words", step=1),
    Check(filter="min_characters", stage="rules", reason="too_short", sense="at_least", score=_field("characters"),
          label="characters", step=1),
    Check(filter="max_words", stage="rules", reason="too_long", sense="at_most", score=_field("words"),
          label="words", step=1),
    Check(filter="max_characters", stage="rules", reason="too_long", sense="at_most", score=_field("characters"),
          label="characters", step=10),
    Check(filter="unchanged", stage="rules", reason="unchanged", sense="below", score=_sameness,
          label="Rouge-L to the annotation", step=0.01),
    Check(filter="repetition", stage="rules", reason="repetition", sense="below", score=_field("repetition"),
          label="share of repeated 4-grams", step=0.01),
    Check(filter="sts", stage="sts", reason="sts_low", sense="at_least", score=_field("sts"),
          label="similarity to the annotation", step=0.01),
    Check(filter="clip", stage="clipscore", reason="clip_low", sense="at_least", score=_best_paragraph,
          label="CLIPScore of the best paragraph", step=0.25),
    Check(filter="nli_margin", stage="nli", reason="nli_contradiction", sense="above", score=_contradiction,
          label="entailment or neutral over contradiction (logits)", step=0.1),
    Check(filter="nli_entailment", stage="nli", reason="nli_not_entailed", sense="above", score=_entailment,
          label="entailment over neutral and contradiction (logits)", step=0.1, offered=0.0),
)  # fmt: skip

STAGES: tuple[str, ...] = ("rules", "sts", "clipscore", "nli")

REJECTIONS: tuple[str, ...] = ("duplicate_key", *dict.fromkeys(check.reason for check in CHECKS), UNSCORED)
"""Every reason a scored sample can be rejected for."""


def checks(sample: Sample, thresholds: Thresholds) -> Iterator[tuple[Check, float]]:
    """Each check that applies to the sample with its number (NaN where unscored), in the paper's order.

    Raises:
        ValueError: the sample's task has no filters.
    """
    if sample.task not in FILTERS:
        raise ValueError(f"{sample.key}: no filters are named for task {sample.task!r}; add it to FILTERS")
    for check in CHECKS:
        if check.stage in FILTERS[sample.task]:
            score = check.score(sample.scores, thresholds)
            if score is not None:
                yield check, score


def judge(sample: Sample, thresholds: Thresholds) -> list[Verdict]:
    """The verdict of every check that applies, in the paper's order; the sample is kept when all of them keep it.

    A number that is missing or not finite is never kept (reason `unscored`); so is a sample without a finite reward, as
    every exported record states one.
    """
    verdicts = []
    for check, score in checks(sample, thresholds):
        if math.isnan(score):
            verdicts.append(Verdict(filter=check.filter, keep=False, reason=UNSCORED))
        else:
            keep = check.passes(score, getattr(thresholds, check.filter))
            verdicts.append(Verdict(filter=check.filter, keep=keep, reason="" if keep else check.reason, score=score))
    rewards = [_number(sample.scores.get(name)) for name in ("reward_raw", "reward")]
    if any(map(math.isnan, rewards)):
        verdicts.append(Verdict(filter="reward", keep=False, reason=UNSCORED))
    return verdicts


def first_failure(verdicts: list[Verdict]) -> Verdict | None:
    """The verdict that is the sample's reason in the funnel; None for a sample that is kept."""
    return next((verdict for verdict in verdicts if not verdict.keep), None)
