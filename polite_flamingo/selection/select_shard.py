"""Apply thresholds to one scored shard: the kept samples, the verdicts on all of them, and statistics that merge.

No model is run and no image decoded, so selecting again takes seconds. Memory holds one shard; totals are in
`Statistics`. Paragraphs of captions below the CLIPScore threshold are removed from the kept text; the scored shard
keeps the full text. A conversation is judged turn by turn, and `Thresholds.keep_turns` says what becomes of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.conversations import parts_of
from polite_flamingo.filters.paragraphs import join_paragraphs, paragraphs
from polite_flamingo.filters.thresholds import (
    CHECKS,
    FILTERS_OF_TASK,
    NOT_SCORED,
    TURN_FAILED,
    Thresholds,
    apply_thresholds,
    first_failure,
)
from polite_flamingo.sample import IMAGE_MARK, Sample, Turn, Verdict
from polite_flamingo.selection.statistics import KEPT, WITH_CONVERSATION, Statistics, pick
from polite_flamingo.storage.duplicates import digest
from polite_flamingo.world import World

DUPLICATE = Verdict(filter="duplicates", keep=False, reason="duplicate_key")
FAILED_TURN = Verdict(filter="turn", keep=False, reason=TURN_FAILED)

CHECK_OF = {check.name: check for check in CHECKS}
"""Name of a check -> the check."""


@dataclass(kw_only=True)
class Selection:
    """The result of a selection from one shard.

    Attributes:
        kept: kept samples, in order, with the turns that are kept; `scores` has the removed paragraphs, and all
            verdicts in `scores["verdicts"]`.
        records: one per sample, including rejected ones: key, dataset, keep, reason, verdicts; JSON types only. A
            conversation's verdicts are in `turns`: number, keep, reason, verdicts.
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
        judged = _judge(sample, thresholds, duplicate=digest(sample.key) in duplicates)
        selection.records.append(_record(sample, judged))
        if any(turn.keep for turn in judged):
            selection.kept.append(_kept_turns(sample, judged))
        _count(selection.statistics, sample, judged)
        if world is not None:
            selection.statistics.dataset(sample.dataset).foreign += world.is_foreign(sample)
        for turn in judged:
            _offer(selection.statistics, turn, shard, thresholds)
    return selection


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A turn that was judged.

    Attributes:
        number: of the turn in its sample.
        part: the turn as a single-turn sample (`conversations.parts_of`).
        verdicts: of all checks that apply.
        failure: the first that does not keep it.
        keep: whether it goes into the dataset; a turn without a failure may go with its conversation.
        kept: the part as it goes into the dataset; None if it does not.
    """

    number: int
    part: Sample
    verdicts: list[Verdict]
    failure: Verdict | None
    keep: bool
    kept: Sample | None

    @property
    def reason(self) -> str:
        """Why the turn is not kept; "" if it is."""
        return "" if self.keep else self.failure.reason if self.failure else WITH_CONVERSATION

    def record(self) -> dict[str, Any]:
        """Convert to JSON types, for the verdicts on disk."""
        return {
            "keep": self.keep,
            "reason": self.reason,
            "verdicts": [dict(vars(verdict)) for verdict in self.verdicts],
        }


def _judge(sample: Sample, thresholds: Thresholds, *, duplicate: bool) -> list[_Judged]:
    """Judge each turn, and apply the rule for conversations."""
    found = []
    for number, part in parts_of(sample).items():
        verdicts = [FAILED_TURN] if part.turns[0].failed else apply_thresholds(part, thresholds)
        if duplicate:
            verdicts.insert(0, DUPLICATE)
        found.append((number, part, verdicts, first_failure(verdicts)))
    failing = [number for number, _, _, failure in found if failure is not None]
    end = {"drop": math.inf, "cut": min(failing, default=math.inf), "all": -1 if failing else math.inf}
    judged = []
    for number, part, verdicts, failure in found:
        keep = failure is None and number < end[thresholds.keep_turns]
        kept = _kept(part, thresholds, [dict(vars(verdict)) for verdict in verdicts]) if keep else None
        judged.append(_Judged(number=number, part=part, verdicts=verdicts, failure=failure, keep=keep, kept=kept))
    return judged


def _rejection(judged: list[_Judged]) -> str:
    """Return the reason for which a sample is rejected, that of its first failing turn; "" if any turn is kept."""
    if any(turn.keep for turn in judged):
        return ""
    return next(turn.failure.reason for turn in judged if turn.failure is not None)


def _record(sample: Sample, judged: list[_Judged]) -> dict[str, Any]:
    reason = _rejection(judged)
    about = {"key": sample.key, "dataset": sample.dataset, "keep": not reason, "reason": reason}
    if len(sample.turns) == 1:
        return about | judged[0].record()
    return about | {"verdicts": [], "turns": [{"turn": turn.number} | turn.record() for turn in judged]}


def _kept_turns(sample: Sample, judged: list[_Judged]) -> Sample:
    """Return a sample with the turns that are kept, and those that are only context.

    The images of a turn that goes move to the next one, which may ask about them; those of the last turns go too. After
    the last kept turn there is no context. If turns go, `provenance["turns"]` has the numbers of those that stay: lists
    in `meta` may hold a value per turn (`relevance_ratings`). A turn that is left alone is a single-turn sample.
    """
    if len(sample.turns) == 1:
        assert judged[0].kept is not None
        return judged[0].kept
    result_of = {turn.number: turn for turn in judged}
    last = max(turn.number for turn in judged if turn.keep)
    turns: dict[int, Turn] = {}
    waiting = 0
    for number, turn in enumerate(sample.turns):
        result = result_of.get(number)
        if number > last or (result is not None and not result.keep):
            waiting += turn.instruction.count(IMAGE_MARK)
            continue
        if result is not None and result.kept is not None:
            turn = dataclasses.replace(turn, rewritten=result.kept.rewritten, scores=result.kept.scores)
        turns[number] = dataclasses.replace(turn, instruction=IMAGE_MARK * waiting + turn.instruction)
        waiting = 0
    images = sample.images[: len(sample.images) - waiting]
    kept = dataclasses.replace(sample, turns=tuple(turns.values()), images=images)
    if len(turns) < len(sample.turns):
        kept = dataclasses.replace(kept, provenance={**sample.provenance, "turns": list(turns)})
    if len(turns) == 1:
        alone, scores = kept.turns[0], {**sample.scores, **kept.turns[0].scores}
        single = dataclasses.replace(alone, rewritten=None, scores={})
        kept = dataclasses.replace(kept, turns=(single,), rewritten=alone.rewritten, scores=scores)
    return kept


def split_paragraphs(sample: Sample, thresholds: Thresholds) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Return the (CLIPScore, paragraph) pairs that stay and those that go; none if the filter does not apply, or if a
    paragraph has no score.

    Raises:
        ValueError: the numbers of scores and paragraphs differ.
    """
    scores = sample.scores.get("clip_paragraphs")
    single = len(scores or ()) == 1 and not thresholds.clip_single
    if not scores or single or "clipscore" not in FILTERS_OF_TASK[sample.task]:
        return [], []
    if None in scores:
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


def _count(statistics: Statistics, sample: Sample, judged: list[_Judged]) -> None:
    counts = statistics.dataset(sample.dataset)
    counts.tasks[sample.task] += 1
    if reason := _rejection(judged):
        counts.rejected[reason] += 1
    else:
        counts.kept += 1
    if len(sample.turns) > 1:
        counts.conversations += 1
        counts.turns.update(turn.reason or KEPT for turn in judged)
    for turn in judged:
        counts.paragraphs_removed += len(turn.kept.scores.get("filtered_paragraphs", ())) if turn.kept else 0
        unread = turn.part.scores.get(NOT_SCORED)
        counts.not_scored.update(f"{name}: {why}" for name, why in (unread if isinstance(unread, dict) else {}).items())
        _count_rewards(statistics, turn.part, kept=turn.keep)
        _count_scores(statistics, turn)


def _count_scores(statistics: Statistics, turn: _Judged) -> None:
    failed = {verdict.filter for verdict in turn.verdicts if not verdict.keep}
    for verdict in turn.verdicts:
        if verdict.filter not in CHECK_OF or (verdict.keep and verdict.score is None):
            continue
        curve = statistics.curves[verdict.filter]
        if verdict.score is None:
            curve.unscored += 1
            continue
        curve.scores.add(verdict.score)
        curve.kept += turn.failure is None
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


def _offer(statistics: Statistics, turn: _Judged, shard: str, thresholds: Thresholds) -> None:
    """Offer a turn to the slots of the gallery that it fits.

    `over/CHECK` and `under/CHECK`: kept, or rejected by this check alone, nearest to the threshold; `worst/REASON`:
    rejected for this reason, farthest from the threshold; `kept/DATASET`: any kept sample.
    """
    sample, verdicts, failure = turn.part, turn.verdicts, turn.failure
    if turn.keep:
        statistics.offer(f"kept/{sample.dataset}", pick(sample.key, shard))
    if failure is not None:
        statistics.offer(f"worst/{failure.reason}", pick(sample.key, shard, _distance(failure, thresholds)))
    failed = [verdict for verdict in verdicts if not verdict.keep]
    for verdict in verdicts:
        if verdict.filter not in CHECK_OF or verdict.score is None or getattr(thresholds, verdict.filter) is None:
            continue
        if turn.keep:
            statistics.offer(f"over/{verdict.filter}", pick(sample.key, shard, _distance(verdict, thresholds)))
        elif failed == [verdict]:
            statistics.offer(f"under/{verdict.filter}", pick(sample.key, shard, -_distance(verdict, thresholds)))


def _distance(verdict: Verdict, thresholds: Thresholds) -> float:
    """Return how far a verdict's score lies on the good side of its threshold; 0 without a threshold."""
    check = CHECK_OF.get(verdict.filter)
    if check is None or verdict.score is None:
        return 0.0
    return round(check.distance(verdict.score, getattr(thresholds, check.name)), 4)
