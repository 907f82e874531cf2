"""Thresholds and verdicts: which scores are good enough. Pure arithmetic, without models or texts.

Scores are computed once per sample (`scorer.py`); other thresholds can then be applied to them in microseconds.
Each filter (`FILTERS`) has one or more checks, and each check compares one score with one threshold.
`CHECKS` is in the paper's order. The first failing check is the sample's reason in the funnel, but every check that
applies gives a verdict, which also answers "what else was wrong?".

Names on disk stay as they are. Of the filter `clipscore`, the check and threshold are called `clip`, the scores
`clip_paragraphs` and the reason `clip_low`; in a verdict, `filter` is the name of the check. A caption is rejected only
if all its paragraphs are low; selection removes the low ones from a kept text (`select_shard.split_paragraphs`).

Sources: [PF] "Visual Instruction Tuning with Polite Flamingo", arXiv 2307.01003.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polite_flamingo.sample import Sample, Verdict

FILTERS_OF_TASK: dict[str, tuple[str, ...]] = {
    "captioning": ("rules", "sts", "clipscore"),
    "classification": ("rules", "sts"),
    "change_captioning": ("rules", "sts"),
    "vqa_rationale": ("rules", "nli"),
    "vqa": ("rules", "nli"),
    "text": ("rules",),
    "dialogue": ("rules", "nli"),
}
"""The filters of each task. Meaning is compared by STS in descriptions and by NLI in answers to questions, those of a
conversation too. [PF] scores paragraphs against the image for captions only, and has no check for tasks with two images
and none for conversations, which it does not rewrite."""

NEAR_DUPLICATES = "near_duplicates"
"""A filter of every task. Its scores compare a sample with others, so a selection adds them; some shards have none."""

JUDGE = "judge"
"""A filter of every task, if a profile has a judge."""

NOT_SCORED = "not_scored"
"""Key in `Sample.scores`: filter -> why it does not score the sample. Its model does not know the language, or a judge
gives no marks."""

UNSCORED = "unscored"
TURN_FAILED = "turn_failed"
"""A turn of a conversation that could not be rewritten or scored; `Turn.failed` says why."""


def not_compared(tasks: Mapping[str, int]) -> str:
    """Describe in one line the rows whose task has no filter but rules; "" if there are none.

    Args:
        tasks: number of rows of each task.
    """
    found = {task: count for task, count in tasks.items() if count and FILTERS_OF_TASK.get(task) == ("rules",)}
    if not found:
        return ""
    return (
        f"{sum(found.values()):,} rows of task {' and '.join(sorted(found))} were filtered by rules alone: no filter "
        "compares the text with the annotation or the image. If they are questions or captions, say so at ingest "
        "(--extra task=vqa)."
    )


def not_scored(reasons: Mapping[str, int]) -> str:
    """Describe in one line the texts that filters did not score, and that were judged without them; "" if there are
    none.

    Args:
        reasons: "FILTER: why" -> number of texts.
    """
    found = [f"{count:,} by {reason.replace(': ', ' (', 1)})" for reason, count in sorted(reasons.items()) if count]
    return f"Texts not scored, and judged without that filter: {', '.join(found)}." if found else ""


KeepTurns = Literal["drop", "cut", "all"]

KEEP_TURNS: dict[KeepTurns, str] = {
    "drop": "failing turns of a conversation are dropped",
    "cut": "a conversation ends before its first failing turn",
    "all": "a conversation is kept if all of its turns pass",
}


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The threshold of each check: the paper's value if it gives one, else ours.

    Attributes:
        min_words: texts with fewer whitespace-separated words are `too_short`. The paper gives no number. Words of
            scripts without spaces are estimated (`scripts.py`).
        max_words: texts with more words are `too_long`. Ours; the reference generates at most 1024 tokens.
        min_characters: texts with fewer characters are `too_short`; a Chinese, Japanese or Korean one counts as two.
            Ours.
        max_characters: texts with more characters are `too_long`, such as one endless word. Ours.
        unchanged: texts with at least this Rouge-L to the annotation are `unchanged`. The paper drops such
            texts; its code stores Rouge-L without a threshold.
        repetition: texts with at least this share of repeated 4-grams are `repetition`. Ours; the paper names
            the failure.
        sts: minimum cosine similarity to the annotation. The reference drops "scores below a threshold of 0.40".
        clip: minimum CLIPScore of a paragraph. The reference drops those "lower than a threshold of 17.0".
        clip_single: apply `clip` to texts with a single paragraph too. The reference scores only texts with a
            blank line.
        nli_margin: entailment or neutral must exceed contradiction by more than this (logits). 0 is the rule of the
            reference: drop if contradiction has the highest logit, ties included.
        nli_entailment: entailment must exceed neutral and contradiction by more than this (logits); with 0 only
            entailed answers are kept. Off by default: the paper keeps neutral answers too. Ours.
        near_text: texts (instruction and annotation) with at least this similarity to an earlier sample's that shows
            the same pictures are `near_duplicate`. Off by default; 0.8 is usual. Ours.
        near_image: samples whose pictures have at least this share of bits in common with earlier ones are
            `repeated_image`, whatever they ask. Off by default: datasets ask several questions about a picture. Ours.
        judge_relevance: texts with a lower mark of the judge (1 to 5) are `low_relevance`. The judge's thresholds are
            off by default: how far it can be trusted depends on its model.
        judge_correctness: texts with a lower mark are `low_correctness`. Ours.
        judge_visual_dependency: texts with a lower mark are `low_visual_dependency`; those without a picture have none.
            Ours.
        judge_formatting: texts with a lower mark are `low_formatting`. Ours.
        polite_already: an annotation with at least this reward may stay unchanged, as in conversations whose answers
            are polite. Ours; off by default, since the scale depends on the reward model.
        keep_turns: what becomes of a conversation with failing turns: "drop" them, "cut" it before the first of them,
            or keep conversations only if "all" turns pass. Ours.
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
    near_text: float | None = None
    near_image: float | None = None
    judge_relevance: float | None = None
    judge_correctness: float | None = None
    judge_visual_dependency: float | None = None
    judge_formatting: float | None = None
    polite_already: float | None = None
    keep_turns: KeepTurns = "drop"


Comparison = Literal["at_least", "at_most", "below", "above"]

COMPARISONS: dict[Comparison, Callable[[float, float], bool]] = {
    "at_least": operator.ge, "at_most": operator.le, "below": operator.lt, "above": operator.gt,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One score against one threshold.

    Attributes:
        name: name of the check and of its field in `Thresholds`.
        filter: the filter it belongs to: one of `FILTERS`.
        reason: stable name of the rejection.
        comparison: how a score must compare with the threshold to be kept; a threshold of None keeps all.
        score: computes the score; NaN if it is missing, None if the check does not apply to the sample.
        label: describes the score to people.
        step: resolution of the score in histograms and what-if curves.
        suggested: threshold at which the what-if curve shows a check that is off by default.
    """

    name: str
    filter: str
    reason: str
    comparison: Comparison
    score: Callable[[Mapping[str, Any], Thresholds], float | None]
    label: str
    step: float
    suggested: float | None = None

    def passes(self, score: float, threshold: float | None) -> bool:
        """Whether a score is kept; NaN never is, unless the check is off (None)."""
        return threshold is None or COMPARISONS[self.comparison](score, threshold)

    def rule(self, threshold: float | None) -> str:
        """Describe the check without its label, such as "kept from 0.4"."""
        words = {"at_least": "kept from", "at_most": "kept up to", "below": "kept below", "above": "kept above"}
        return "off" if threshold is None else f"{words[self.comparison]} {threshold:g}"

    def distance(self, score: float, threshold: float) -> float:
        """Return how far the score is on the kept side; negative on the other side, minus infinity if unscored."""
        if math.isnan(score):
            return -math.inf
        return score - threshold if self.comparison in ("at_least", "above") else threshold - score


def _number(value: Any) -> float:
    """Convert to a finite float, or NaN if that is impossible: a missing score must never look like a good one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def _field(name: str) -> Callable[[Mapping[str, Any], Thresholds], float | None]:
    return lambda scores, thresholds: _number(scores.get(name))


def _field_if_any(name: str) -> Callable[[Mapping[str, Any], Thresholds], float | None]:
    return lambda scores, thresholds: _number(scores[name]) if name in scores else None


def is_raw(scores: Mapping[str, Any]) -> bool:
    """Whether the scored text is the annotation itself: nothing was rewritten, so nothing can be compared with it."""
    return "same_text" in scores and scores["same_text"] is None


def _compared(score: Callable[[Mapping[str, Any]], float]) -> Callable[[Mapping[str, Any], Thresholds], float | None]:
    return lambda scores, thresholds: None if is_raw(scores) else score(scores)


def _mark(name: str) -> Callable[[Mapping[str, Any], Thresholds], float | None]:
    """A judge's mark; a missing one counts only if there is a threshold: a judge's failure alone costs no sample."""

    def mark(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
        found = _number(scores.get(name))
        missing = name not in scores or (math.isnan(found) and getattr(thresholds, name) is None)
        return None if missing else found

    return mark


def _sameness(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    """Return how much of the annotation is left; None if an unchanged text may stay, because it was polite already."""
    if is_raw(scores):
        return None
    same = 1.0 if scores.get("same_text") is True else _number(scores.get("rouge_l"))
    enough = thresholds.polite_already
    polite = enough is not None and _number(scores.get("reward_raw")) >= enough
    return None if polite and same >= thresholds.unchanged else same


def _best_paragraph(scores: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    """Return the best paragraph's score: a sample is kept if one paragraph is. One unscored paragraph gives NaN."""
    paragraphs = scores.get("clip_paragraphs")
    if not isinstance(paragraphs, list | tuple) or not paragraphs:
        return math.nan
    if len(paragraphs) == 1 and not thresholds.clip_single:
        return None
    numbers = [_number(value) for value in paragraphs]
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def nli_margin(logits: Any) -> float:
    """Return max(entailment, neutral) - contradiction of [contradiction, entailment, neutral] logits; NaN if invalid.

    It is positive exactly if contradiction is not the first maximum.
    """
    contradiction, entailment, neutral = _logits(logits)
    return round(max(entailment, neutral) - contradiction, 4)


def entailment_margin(logits: Any) -> float:
    """Return entailment - max(contradiction, neutral) of the same logits; NaN if invalid.

    It is positive exactly if entailment is the only maximum.
    """
    contradiction, entailment, neutral = _logits(logits)
    return round(entailment - max(contradiction, neutral), 4)


def _logits(logits: Any) -> tuple[float, float, float]:
    """Return three numbers; all NaN if one is missing, so that arithmetic on them never looks like a score."""
    if isinstance(logits, list | tuple) and len(logits) == 3:
        contradiction, entailment, neutral = map(_number, logits)
        if not any(map(math.isnan, (contradiction, entailment, neutral))):
            return contradiction, entailment, neutral
    return math.nan, math.nan, math.nan


CHECKS: tuple[Check, ...] = (
    Check(name="min_words", filter="rules", reason="too_short", comparison="at_least", score=_field("words"),
          label="words", step=1),
    Check(name="min_characters", filter="rules", reason="too_short", comparison="at_least", score=_field("characters"),
          label="characters", step=1),
    Check(name="max_words", filter="rules", reason="too_long", comparison="at_most", score=_field("words"),
          label="words", step=1),
    Check(name="max_characters", filter="rules", reason="too_long", comparison="at_most", score=_field("characters"),
          label="characters", step=10),
    Check(name="unchanged", filter="rules", reason="unchanged", comparison="below", score=_sameness,
          label="Rouge-L to the annotation", step=0.01),
    Check(name="repetition", filter="rules", reason="repetition", comparison="below", score=_field("repetition"),
          label="share of repeated 4-grams", step=0.01),
    Check(name="sts", filter="sts", reason="sts_low", comparison="at_least",
          score=_compared(lambda scores: _number(scores.get("sts"))),
          label="similarity to the annotation", step=0.01),
    Check(name="clip", filter="clipscore", reason="clip_low", comparison="at_least", score=_best_paragraph,
          label="CLIPScore of the best paragraph", step=0.25),
    Check(name="nli_margin", filter="nli", reason="nli_contradiction", comparison="above",
          score=_compared(lambda scores: nli_margin(scores.get("nli"))),
          label="entailment or neutral over contradiction (logits)", step=0.1),
    Check(name="nli_entailment", filter="nli", reason="nli_not_entailed", comparison="above",
          score=_compared(lambda scores: entailment_margin(scores.get("nli"))),
          label="entailment over neutral and contradiction (logits)", step=0.1, suggested=0.0),
    Check(name="near_text", filter=NEAR_DUPLICATES, reason="near_duplicate", comparison="below",
          score=_field_if_any("near_text"), label="similarity to an earlier text with the same pictures", step=0.01,
          suggested=0.8),
    Check(name="near_image", filter=NEAR_DUPLICATES, reason="repeated_image", comparison="below",
          score=_field_if_any("near_image"), label="similarity to earlier pictures", step=0.01, suggested=0.93),
    *(
        Check(name=f"judge_{axis}", filter=JUDGE, reason=f"low_{axis}", comparison="at_least",
              score=_mark(f"judge_{axis}"), label=f"the judge's mark of {axis.replace('_', ' ')}", step=1, suggested=3)
        for axis in ("relevance", "correctness", "visual_dependency", "formatting")
    ),
)  # fmt: skip

FILTERS: tuple[str, ...] = ("rules", "sts", "clipscore", "nli", NEAR_DUPLICATES, JUDGE)

REJECTIONS: tuple[str, ...] = ("duplicate_key", *dict.fromkeys(check.reason for check in CHECKS), UNSCORED, TURN_FAILED)
"""Every reason a scored sample can be rejected for."""


def checks(sample: Sample, thresholds: Thresholds) -> Iterator[tuple[Check, float]]:
    """Yield each check that applies to the sample and its score (NaN if unscored), in the paper's order.

    Raises:
        ValueError: the sample's task has no filters.
    """
    if sample.task not in FILTERS_OF_TASK:
        raise ValueError(f"{sample.key}: no filter supports task {sample.task!r}; add it to FILTERS_OF_TASK")
    for check in CHECKS:
        if check.filter in (*FILTERS_OF_TASK[sample.task], NEAR_DUPLICATES, JUDGE):
            score = check.score(sample.scores, thresholds)
            if score is not None:
                yield check, score


def apply_thresholds(sample: Sample, thresholds: Thresholds) -> list[Verdict]:
    """Return the verdict of every check that applies, in the paper's order; a sample is kept if all verdicts keep it.

    A score that is missing or not finite is never kept (reason `unscored`). The same holds for a sample without a
    finite reward, since every exported record contains one. A filter whose model does not know the language keeps the
    sample, and its verdict says so.
    """
    verdicts = []
    strange = _strange(sample.scores)
    for check, score in checks(sample, thresholds):
        if check.filter in strange:
            verdicts.append(Verdict(filter=check.name, keep=True, reason=strange[check.filter]))
        elif math.isnan(score):
            verdicts.append(Verdict(filter=check.name, keep=False, reason=UNSCORED))
        else:
            keep = check.passes(score, getattr(thresholds, check.name))
            verdicts.append(Verdict(filter=check.name, keep=keep, reason="" if keep else check.reason, score=score))
    rewards = [_number(sample.scores.get(name)) for name in ("reward_raw", "reward")]
    if "reward" in strange:
        verdicts.append(Verdict(filter="reward", keep=True, reason=strange["reward"]))
    elif any(map(math.isnan, rewards)):
        verdicts.append(Verdict(filter="reward", keep=False, reason=UNSCORED))
    return verdicts


def _strange(scores: Mapping[str, Any]) -> dict[str, str]:
    """Return the filters whose model does not know the language -> what their verdict says."""
    found = scores.get(NOT_SCORED)
    reasons = found.items() if isinstance(found, dict) else ()
    return {name: f"does not apply: {why}" for name, why in reasons if name != JUDGE and isinstance(why, str)}


def first_failure(verdicts: list[Verdict]) -> Verdict | None:
    """Return the verdict that is the sample's reason in the funnel; None for a kept sample."""
    return next((verdict for verdict in verdicts if not verdict.keep), None)
