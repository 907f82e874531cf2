"""Make the report of a selection, one self-contained HTML page.

Everything from a dataset is escaped (`template.py`); charts are drawn from numbers (`selection_charts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polite_flamingo.cost import Cost
from polite_flamingo.evaluation.agreement import Agreement
from polite_flamingo.filters.thresholds import (
    CHECKS,
    JUDGE,
    KEEP_TURNS,
    NEAR_DUPLICATES,
    TURN_FAILED,
    UNSCORED,
    Check,
    Thresholds,
    not_scored,
)
from polite_flamingo.report.gallery import CHECKS_BY_INTEREST, Group
from polite_flamingo.report.selection_charts import reward_chart, what_if_chart
from polite_flamingo.report.template import fill
from polite_flamingo.selection.select_shard import CHECK_OF
from polite_flamingo.selection.statistics import (
    KEPT,
    UNKNOWN,
    WITH_CONVERSATION,
    DatasetCounts,
    Statistics,
    rejections,
    stage_of,
)
from polite_flamingo.storage.provenance import NOTHING, Annotations
from polite_flamingo.storage.run_info import RunInfo

STAGE_NAMES = {
    "duplicates": "Duplicate keys",
    "rules": "Rules",
    "sts": "STS",
    "clipscore": "CLIPScore",
    "nli": "NLI",
    NEAR_DUPLICATES: "Near-duplicates",
    JUDGE: "Judge",
    UNSCORED: "Without a score",
    TURN_FAILED: "Without a text",
}
STAGE_NOTES = {
    "duplicates": "another shard has the key",
    "rules": "length, unchanged text, endless repetition",
    "sts": "a description must mean the same as the annotation",
    "clipscore": "a caption's paragraphs must describe the image",
    "nli": "an answer must not contradict the annotated one",
    NEAR_DUPLICATES: "nearly the same as an earlier sample",
    JUDGE: "a chat model's marks from 1 to 5",
    UNSCORED: "a model gave no finite number",
    TURN_FAILED: "a turn of a conversation could not be rewritten or scored",
}
REASON_NAMES = {
    "duplicate_key": "duplicate key",
    "too_short": "too short",
    "too_long": "too long",
    "unchanged": "not rewritten",
    "repetition": "endless repetition",
    "sts_low": "different meaning",
    "clip_low": "not in the image",
    "nli_contradiction": "contradicts the answer",
    "nli_not_entailed": "does not say the answer",
    "near_duplicate": "nearly an earlier sample",
    "repeated_image": "picture seen before",
    "low_relevance": "beside the question",
    "low_correctness": "wrong, says the judge",
    "low_visual_dependency": "needs no picture",
    "low_formatting": "badly written",
    UNSCORED: "without a score",
    TURN_FAILED: "turn failed",
    WITH_CONVERSATION: "passed, but went with their conversation",
}
CHECK_NAMES = {
    "min_words": "Fewest words",
    "min_characters": "Fewest characters",
    "max_words": "Most words",
    "max_characters": "Most characters",
    "unchanged": "Not rewritten",
    "repetition": "Endless repetition",
    "sts": "STS",
    "clip": "CLIPScore",
    "nli_margin": "NLI",
    "nli_entailment": "NLI, entailed only",
    "near_text": "Near-duplicates",
    "near_image": "Pictures seen before",
    "judge_relevance": "Judge: relevance",
    "judge_correctness": "Judge: correctness",
    "judge_visual_dependency": "Judge: visual dependency",
    "judge_formatting": "Judge: formatting",
}
MODEL_NAMES = {
    "rewriting": "Rewriting",
    "scoring": "Scoring",
    "sts": "STS",
    "nli": "NLI",
    "clip": "CLIPScore",
    "reward": "Reward",
    "judge": "Judge",
}
NO_COST = Cost()
TASK_NAMES = {
    "captioning": "captioning",
    "classification": "classification",
    "change_captioning": "change captioning",
    "vqa_rationale": "VQA with rationale",
    "vqa": "VQA",
    "text": "text",
    "dialogue": "conversation",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the funnel: how many samples reach it, and how many of them it removes."""

    stage: str
    name: str
    note: str
    reaching: int
    removed: int
    reasons: tuple[tuple[str, int], ...]

    @property
    def left(self) -> int:
        """Number of samples that pass."""
        return self.reaching - self.removed


def render(
    statistics: Statistics,
    thresholds: Thresholds,
    run: RunInfo,
    gallery: Sequence[Group],
    annotations: Annotations = NOTHING,
    changed: Sequence[tuple[str, str]] = (),
    cost: Cost = NO_COST,
    agreements: Sequence[Agreement] = (),
) -> str:
    """Return the page as HTML.

    Args:
        statistics: the selection's statistics.
        thresholds: the selection's thresholds.
        run: the run that made the samples.
        gallery: the samples to show.
        annotations: counts of annotation records before the build, if known.
        changed: the differences from the previous selection (`Difference.rows`).
        cost: what the models consumed.
        agreements: of the judge with NLI and with people, if they were measured.
    """
    return fill(
        "selection",
        run=run,
        thresholds=thresholds,
        warning=run.world.warning(statistics.of_another_world()) if run.world else "",
        not_scored=not_scored(statistics.total().not_scored),
        total=statistics.total(),
        annotations=annotations,
        changed=changed,
        agreements=[one.row() for one in agreements],
        whole=statistics.total().rows + annotations.before,
        before=_before(annotations),
        funnel=funnel(statistics),
        cost=cost,
        model_names=MODEL_NAMES,
        turns=turn_counts(statistics.total()),
        datasets=[(name, counts, slices(counts)) for name, counts in sorted(statistics.datasets.items())],
        rewards=[reward_chart(statistics, width=width) for width in (360, 1060)],
        curves=[
            (check, statistics.curves[check.name], chart)
            for check in CHECKS_BY_INTEREST
            if (chart := what_if_chart(check, statistics.curves[check.name], _value(thresholds, check), width=360))
        ],
        groups={kind: [group for group in gallery if group.kind == kind] for kind in ("kept", "threshold", "worst")},
        quarantine=[
            (reason, count, statistics.quarantine.get(reason, []))
            for reason, count in sorted(statistics.total().quarantined.items())
        ],
        checks=[(check, _value(thresholds, check)) for check in CHECKS],
        check_of=CHECK_OF,
        value_of=lambda check: _value(thresholds, check),
        stage_names=STAGE_NAMES,
        reason_names=REASON_NAMES,
        check_names=CHECK_NAMES,
        task_names=TASK_NAMES,
        unknown=UNKNOWN,
        keep_turns=KEEP_TURNS[thresholds.keep_turns],
    )


def funnel(statistics: Statistics) -> list[Step]:
    """Return the stages that removed or scored any sample, in order."""
    total = statistics.total()
    steps, left = [], total.rows - total.quarantined.total()
    for stage, name in STAGE_NAMES.items():
        reasons = tuple((reason, count) for reason, count in rejections(total) if stage_of(reason) == stage)
        removed = sum(count for _, count in reasons)
        judged = any(statistics.curves[check.name].scores.total for check in CHECKS if check.filter == stage)
        if removed or (judged and stage not in (NEAR_DUPLICATES, JUDGE)):  # which are off by default
            note = STAGE_NOTES[stage]
            steps.append(Step(stage=stage, name=name, note=note, reaching=left, removed=removed, reasons=reasons))
            left -= removed
    assert left == total.kept, (left, total.kept)
    return steps


def turn_counts(counts: DatasetCounts) -> list[tuple[str, int]]:
    """Return what became of the turns of conversations, as (reason in words, number); those that are kept come first.

    Empty if there are no conversations.
    """
    lost = [(REASON_NAMES[reason], count) for reason, count in counts.turns.most_common() if reason != KEPT]
    return [(KEPT, counts.turns[KEPT]), *lost] if counts.conversations else []


def _before(annotations: Annotations) -> list[tuple[str, str, int, str]]:
    """Return the steps that removed annotation records before the build: name, note, count, reasons."""
    reasons = " · ".join(f"{reason} {count:,}" for reason, count in annotations.quarantined.items())
    quarantined = sum(annotations.quarantined.values())
    steps = [
        ("Quarantined at ingest", "annotations that could not become a row", quarantined, reasons),
        ("Left out", "by sampling at ingest", annotations.left_out, ""),
        ("Not read", "in shards that are not part of this build, or cannot be read", annotations.not_read, ""),
    ]
    return [step for step in steps if step[2]]


def slices(counts: DatasetCounts) -> list[tuple[str, str, int]]:
    """Return the parts of a dataset's bar that are not empty: stage, its name, number of rows."""
    parts = [("kept", "kept", counts.kept)]
    for stage, name in STAGE_NAMES.items():
        parts.append((stage, name, sum(n for reason, n in counts.rejected.items() if stage_of(reason) == stage)))
    parts.append(("quarantined", "quarantined", counts.quarantined.total()))
    return [part for part in parts if part[2]]


def _value(thresholds: Thresholds, check: Check) -> float | None:
    value = getattr(thresholds, check.name)
    return None if value is None else float(value)
