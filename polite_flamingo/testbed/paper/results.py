"""The results of a repetition of the paper, as one JSON: the numbers of every sample and seed, not averaged.

`measures.py` computes means, `claims.py` compares them with the paper, `page.py` shows them. Texts and pictures to show
are in `examples`; all else is numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.testbed.study.results import Example, HeldOut, check

Role = Literal[
    "base", "text_only", "stage_1", "stage_2", "clever", "raw", "direct", "unfrozen", "twice", "tower", "coarse",
    "template", "first_only",
]  # fmt: skip
"""What a model is in the paper: before any tuning; on the texts of stages 1 and 3 alone; after stages 1, 2 and 3
(`clever`); on raw annotations; without stage 1; with LoRA, or the vision tower, unfrozen in stage 2; with twice the
epochs in stage 2; on coarser pictures; on annotations that templates rewrote; Clever Flamingo shown only the first of
two pictures."""
ROLES: tuple[Role, ...] = get_args(Role)

Generation = Literal["first", "second", "template"]
GENERATIONS: tuple[Generation, ...] = get_args(Generation)


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """The numbers of one annotation that a generation of the rewriter rewrote.

    Attributes:
        key: the sample's key; both generations rewrite the same samples.
        dataset: the sample's dataset.
        task: the sample's task.
        reward_raw: reward of the annotation; None if the model gave no finite number.
        reward: reward of the rewritten text; None likewise.
        unchanged: whether the rewritten text is the annotation.
        clip: mean CLIPScore of the paragraphs; None if there is none (tasks other than captioning).
    """

    key: str
    dataset: str
    task: str
    reward_raw: float | None
    reward: float | None
    unchanged: bool
    clip: float | None = None


def rewrite_of(record: Mapping[str, Any]) -> Rewrite:
    """Make one from a record {key, dataset, task, and the scores of `filters/scorer.py`}."""
    clips = [score for score in record.get("clip_paragraphs") or () if score is not None and math.isfinite(score)]
    return Rewrite(
        key=record["key"],
        dataset=record["dataset"],
        task=record["task"],
        reward_raw=record["reward_raw"],
        reward=record["reward"],
        unchanged=bool(record["same_text"]),
        clip=sum(clips) / len(clips) if clips else None,
    )


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One repetition.

    Attributes:
        number: the seed.
        judged: every model's answers to the held-out sets, by set (`judge(…, by="dataset")`), with the metric "right"
            for the exact check. The questions are those of every other seed.
        rewrites: generation -> its rewrites of the annotations, which are the same for every seed too; "template" is
            what a text-only rewriter makes of them.
        counts: counts along the way: {"rewriting pairs": 1234, "PF-mini, kept": 987}.
    """

    number: int
    judged: Judged
    rewrites: Mapping[Generation, Sequence[Rewrite]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PaperResults:
    """Everything that the report shows.

    Attributes:
        run: command, start, seconds by step, versions, models, resolved configuration.
        minutes: duration from start to end.
        hardware: the machine in words: "2 cores of …, no GPU".
        speaker: who distorted good responses, in words ("rules, no language model").
        roles: role -> name of the contestant in `Seed.judged`.
        sets: dataset -> what it measures.
        seeds: the repetitions.
        examples: samples of the first seed to show.
        caveats: what a reader must know about the judges and the sets, one or two sentences each.
    """

    run: RunInfo
    minutes: float
    hardware: str
    speaker: str
    roles: Mapping[str, str]
    sets: Mapping[str, HeldOut]
    seeds: tuple[Seed, ...]
    examples: tuple[Example, ...] = ()
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted({*self.roles} - {*ROLES}):
            raise ValueError(f"unknown roles {unknown}; known are {', '.join(ROLES)}")
        check(self)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> PaperResults:
        """Read what `to_json` wrote."""
        return PaperResults(
            **{
                **record,
                "run": RunInfo.from_json(record["run"]),
                "sets": {name: HeldOut(**one) for name, one in record["sets"].items()},
                "seeds": tuple(_seed(one) for one in record["seeds"]),
                "examples": tuple(Example.from_json(one) for one in record["examples"]),
                "caveats": tuple(record["caveats"]),
            }
        )


def _seed(record: Mapping[str, Any]) -> Seed:
    rewrites = {name: tuple(Rewrite(**row) for row in rows) for name, rows in record["rewrites"].items()}
    return Seed(**{**record, "judged": Judged.from_json(record["judged"]), "rewrites": rewrites})
