"""Apply thresholds to one scored shard: the kept samples, the verdicts on all of them, and statistics that merge.

No model is run and no image decoded, so selecting again takes seconds. Memory holds one shard; totals are in
`Statistics`. Paragraphs of captions below the CLIPScore threshold are removed from the kept text; the scored shard
keeps the full text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.paragraphs import join_paragraphs, paragraphs
from polite_flamingo.filters.thresholds import (
    CHECKS,
    FILTERS_OF_TASK,
    Thresholds,
    apply_thresholds,
    first_failure,
)
from polite_flamingo.sample import Sample, Verdict
from polite_flamingo.selection.statistics import Statistics, pick
from polite_flamingo.storage.duplicates import digest
from polite_flamingo.world import World

DUPLICATE = Verdict(filter="duplicates", keep=False, reason="duplicate_key")

CHECK_OF = {check.name: check for check in CHECKS}
"""Name of a check -> the check."""


@dataclass(kw_only=True)
class Selection:
    """The result of a selection from one shard.

    Attributes:
        kept: kept samples, in order; `scores` has the removed paragraphs, and all verdicts in `scores["verdicts"]`.
        records: one per sample, including rejected ones: key, dataset, keep, reason, verdicts; JSON types only.
        statistics: counts of the shard's samples; the caller counts its quarantined rows (`count_quarantined`).
    """

    kept: list[Sample] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)


def select_shard(
    samples: Iterable[Sample],
    *,
    shard: str,
    thresholds: Thresholds,
    duplicates: frozenset[bytes] = frozenset(),
    world: World | None = None,
) -> Selection:
    """Judge every sample of a scored shard.

    Args:
        samples: rewritten and scored samples.
        shard: the shard's name, by which the report finds a sample again.
        thresholds: the filters' thresholds.
        duplicates: digests of keys that an earlier shard has (`Duplicates.of`).
        world: the small world that the models are limited to; rows from another one are counted.

    Raises:
        ValueError: a sample's scores do not match its text.
    """
    selection = Selection()
    for sample in samples:
        verdicts = apply_thresholds(sample, thresholds)
        if digest(sample.key) in duplicates:
            verdicts.insert(0, DUPLICATE)
        failure = first_failure(verdicts)
        record: dict[str, Any] = {
            "key": sample.key,
            "dataset": sample.dataset,
            "keep": failure is None,
            "reason": failure.reason if failure else "",
            "verdicts": [dict(vars(verdict)) for verdict in verdicts],
        }
        selection.records.append(record)
        removed = 0
        if failure is None:
            kept = _kept(sample, thresholds, record["verdicts"])
            removed = len(kept.scores.get("filtered_paragraphs", ()))
            selection.kept.append(kept)
        _count(selection.statistics, sample, verdicts, failure, removed)
        if world is not None:
            selection.statistics.dataset(sample.dataset).foreign += world.is_foreign(sample)
        _offer(selection.statistics, sample, shard, verdicts, failure, thresholds)
    return selection


def split_paragraphs(sample: Sample, thresholds: Thresholds) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Return the (CLIPScore, paragraph) pairs that stay and those that go; none if the filter does not apply.

    Raises:
        ValueError: the numbers of scores and paragraphs differ.
    """
    scores = sample.scores.get("clip_paragraphs")
    single = len(scores or ()) == 1 and not thresholds.clip_single
    if not scores or single or "clipscore" not in FILTERS_OF_TASK[sample.task]:
        return [], []
    texts = paragraphs(sample.rewritten or "")
    if len(texts) != len(scores):
        raise ValueError(f"{sample.key}: {len(texts)} paragraphs but {len(scores)} CLIPScores; score its shard again")
    stay: list[tuple[float, str]] = []
    go: list[tuple[float, str]] = []
    for score, text in zip(scores, texts, strict=True):
        (stay if CHECK_OF["clip"].passes(score, thresholds.clip) else go).append((score, text))
    return stay, go


def _kept(sample: Sample, thresholds: Thresholds, verdicts: list[dict[str, Any]]) -> Sample:
    """Return the sample as it goes into the dataset."""
    scores = {**sample.scores, "verdicts": verdicts}
    stay, go = split_paragraphs(sample, thresholds)
    rewritten = sample.rewritten
    if stay or go:
        rewritten = join_paragraphs([text for _, text in stay])
    if len(stay) + len(go) > 1:  # like the reference, only for texts of several paragraphs
        scores["paragraph_clip_scores"] = [score for score, _ in stay]
        scores["filtered_paragraphs"] = [[score, text] for score, text in go]
    return dataclasses.replace(sample, rewritten=rewritten, scores=scores)


def _count(
    statistics: Statistics, sample: Sample, verdicts: list[Verdict], failure: Verdict | None, removed: int
) -> None:
    counts = statistics.dataset(sample.dataset)
    counts.tasks[sample.task] += 1
    counts.paragraphs_removed += removed
    if failure is None:
        counts.kept += 1
    else:
        counts.rejected[failure.reason] += 1
    _count_rewards(statistics, sample, kept=failure is None)
    failed = {verdict.filter for verdict in verdicts if not verdict.keep}
    for verdict in verdicts:
        if verdict.filter not in CHECK_OF:
            continue
        curve = statistics.curves[verdict.filter]
        if verdict.score is None:
            curve.unscored += 1
            continue
        curve.scores.add(verdict.score)
        curve.kept += failure is None
        if failed <= {verdict.filter}:
            curve.deciding.add(verdict.score)


def _count_rewards(statistics: Statistics, sample: Sample, *, kept: bool) -> None:
    raw, new = _reward(sample, "reward_raw"), _reward(sample, "reward")
    if raw is None or new is None:
        return
    counts = statistics.dataset(sample.dataset)
    counts.reward_raw.add(raw)
    counts.reward.add(new)
    statistics.reward_raw.add(raw)
    statistics.reward.add(new)
    if kept:
        counts.reward_raw_kept.add(raw)
        counts.reward_kept.add(new)
        statistics.reward_kept.add(new)


def _reward(sample: Sample, name: str) -> float | None:
    value = sample.scores.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _offer(
    statistics: Statistics,
    sample: Sample,
    shard: str,
    verdicts: list[Verdict],
    failure: Verdict | None,
    thresholds: Thresholds,
) -> None:
    """Offer the sample to the slots of the gallery that it fits.

    `over/CHECK` and `under/CHECK`: kept, or rejected by this check alone, nearest to the threshold; `worst/REASON`:
    rejected for this reason, farthest from the threshold; `kept/DATASET`: any kept sample.
    """
    if failure is None:
        statistics.offer(f"kept/{sample.dataset}", pick(sample.key, shard))
    else:
        statistics.offer(f"worst/{failure.reason}", pick(sample.key, shard, _distance(failure, thresholds)))
    failed = [verdict for verdict in verdicts if not verdict.keep]
    for verdict in verdicts:
        if verdict.filter not in CHECK_OF or verdict.score is None or getattr(thresholds, verdict.filter) is None:
            continue
        if failure is None:
            statistics.offer(f"over/{verdict.filter}", pick(sample.key, shard, _distance(verdict, thresholds)))
        elif failed == [verdict]:
            statistics.offer(f"under/{verdict.filter}", pick(sample.key, shard, -_distance(verdict, thresholds)))


def _distance(verdict: Verdict, thresholds: Thresholds) -> float:
    """Return how far a verdict's score lies on the good side of its threshold; 0 without a threshold."""
    check = CHECK_OF.get(verdict.filter)
    if check is None or verdict.score is None:
        return 0.0
    return round(check.distance(verdict.score, getattr(thresholds, check.name)), 4)
