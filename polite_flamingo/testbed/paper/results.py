"""What a repetition of the paper found, as one JSON: the numbers of every sample and seed. Nothing is averaged here.

`measures.py` computes of it, `claims.py` compares with the paper, `report/paper.py` shows it. The texts and pictures
that are shown lie in `examples`; all else is numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.report.gallery import Thumbnail, readable, thumbnail
from polite_flamingo.sample import Sample
from polite_flamingo.storage.run_info import RunInfo

Role = Literal[
    "base", "text_only", "stage_1", "stage_2", "clever", "raw_2", "raw", "direct", "unfrozen", "twice",
]  # fmt: skip
"""What a model is in the paper: before any tuning; text only; after stages 1, 2 and 3 (`clever`); on raw annotations
after stages 2 and 3; without stage 1; with LoRA unfrozen in stage 2; with twice the epochs in stage 2."""
ROLES: tuple[Role, ...] = get_args(Role)

Generation = Literal["first", "second"]
GENERATIONS: tuple[Generation, ...] = get_args(Generation)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A set that all models answer.

    Attributes:
        domain: "in" and "out" are about pictures, of the kind that tuning has shown and of another; "text" has none.
        task: of its samples, one of `sample.TASKS`.
        title: in words.
    """

    domain: str
    task: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """The numbers of one annotation that a generation of the rewriter rewrote.

    Attributes:
        key: of the sample; both generations rewrite the same ones.
        dataset: of the sample.
        task: of the sample.
        reward_raw: of the annotation; None where the model gave no finite number, as below.
        reward: of the rewritten text.
        unchanged: whether it is the annotation again.
        clip: mean CLIPScore of its paragraphs; None where it has none (tasks other than captioning).
    """

    key: str
    dataset: str
    task: str
    reward_raw: float | None
    reward: float | None
    unchanged: bool
    clip: float | None = None


def rewrite_of(record: Mapping[str, Any]) -> Rewrite:
    """Of a record {key, dataset, task, and the scores of `filters/scorer.py`}."""
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
        number: of the seed.
        judged: every model's answers to the held-out sets, by data set (`judge(…, by="dataset")`).
        rewrites: generation -> what it made of the annotations.
        counts: what was counted on the way, in words: {"rewriting pairs": 1234, "PF-mini, kept": 987}.
    """

    number: int
    judged: Judged
    rewrites: Mapping[Generation, Sequence[Rewrite]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample to be looked at.

    Attributes:
        kind: "rewritten" (an annotation and what became of it) or "answered" (a question of a held-out set).
        dataset: of the sample.
        question: without image marks.
        raw: the annotation.
        said: who -> text.
        pictures: small ones of our own making.
    """

    kind: Literal["rewritten", "answered"]
    dataset: str
    question: str
    raw: str
    said: Mapping[str, str]
    pictures: tuple[Thumbnail, ...] = ()


def example_of(sample: Sample, kind: Literal["rewritten", "answered"], said: Mapping[str, str]) -> Example:
    """A sample with what was said of it, cut to what a page can show."""
    return Example(
        kind=kind,
        dataset=sample.dataset,
        question=readable(sample.question),
        raw=readable(sample.response),
        said={name: readable(text) for name, text in said.items()},
        pictures=tuple(thumbnail(image.data, side=192) for image in sample.images),
    )


@dataclass(frozen=True, kw_only=True)
class PaperResults:
    """Everything that the report says.

    Attributes:
        run: command, start, seconds by step, versions, models, resolved configuration.
        minutes: from start to end, of this machine's clock.
        hardware: in words: "2 cores of …, no GPU".
        speaker: in words: who distorted good responses ("rules, no language model").
        roles: role -> what the contestant is called in `Seed.judged`.
        sets: data set -> what is measured with it.
        seeds: the repetitions.
        examples: of the first seed.
        caveats: what a reader must know of the judges and the sets, a sentence or two each.
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
        """Raises ValueError for what cannot be compared: no seed, an unknown role, a set that is not described."""
        if not self.seeds:
            raise ValueError("results need at least one seed")
        if unknown := sorted({*self.roles} - {*ROLES}):
            raise ValueError(f"roles {unknown} are none of {', '.join(ROLES)}")
        for seed in self.seeds:
            if missing := sorted({*seed.judged.tasks} - {*self.sets}):
                raise ValueError(f"seed {seed.number} has the sets {missing}, which `sets` does not describe")
            if absent := sorted({*self.roles.values()} - {*seed.judged.contestants}):
                raise ValueError(f"seed {seed.number} has no answers of {', '.join(absent)}")

    def to_json(self) -> dict[str, Any]:
        """JSON types only; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> PaperResults:
        """Inverse of `to_json`."""
        return PaperResults(
            **{
                **record,
                "run": RunInfo.from_json(record["run"]),
                "sets": {name: HeldOut(**one) for name, one in record["sets"].items()},
                "seeds": tuple(_seed(one) for one in record["seeds"]),
                "examples": tuple(_example(one) for one in record["examples"]),
                "caveats": tuple(record["caveats"]),
            }
        )


def _seed(record: Mapping[str, Any]) -> Seed:
    rewrites = {name: tuple(Rewrite(**row) for row in rows) for name, rows in record["rewrites"].items()}
    return Seed(**{**record, "judged": Judged.from_json(record["judged"]), "rewrites": rewrites})


def _example(record: Mapping[str, Any]) -> Example:
    return Example(**{**record, "pictures": tuple(Thumbnail(**one) for one in record["pictures"])})
