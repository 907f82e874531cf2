"""The results of `polite-flamingo align`, as one JSON: the numbers of every answer and seed, not averaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.testbed.study.results import Example, HeldOut, check

Role = Literal[
    "language", "start", "sft", "steerlm", "steerlm_short", "steerlm_none", "rejection", "dpo", "flips_25", "flips_50",
    "flips_75", "scale_25", "scale_50", "scale_75", "by_reward",
]  # fmt: skip
"""What a model is in the study: tuned on texts alone; tuned on pictures, where alignment begins; after each way to
align, SteerLM asked for the best, for short answers, or for nothing; after DPO on pairs of which a share is flipped, on
a share of the pairs, and on pairs by a reward model that sees no picture."""
ROLES: tuple[Role, ...] = get_args(Role)

METRICS = ("right", "score", "reward", "words")
"""1 if an answer is right, by the exact check; helpfulness + correctness + coherence, 0 to 12, by the rule of Shapes
(`shapes.rule`); the reward model's logit; number of words."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One repetition.

    Attributes:
        number: the seed.
        judged: `METRICS` of every model's answers, by set. The questions are those of every other seed.
        counts: counts along the way: {"prompts": 400, "pairs": 216}.
    """

    number: int
    judged: Judged
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AlignmentResults:
    """Everything that the report shows.

    Attributes:
        run: command, start, seconds by step, versions, models, resolved configuration.
        minutes: duration from start to end.
        hardware: the machine in words.
        roles: role -> name of the contestant in `Seed.judged`.
        sets: dataset -> what it measures.
        seeds: the repetitions.
        examples: questions of the first seed to show.
        caveats: what a reader must know, one or two sentences each.
    """

    run: RunInfo
    minutes: float
    hardware: str
    roles: Mapping[str, str]
    sets: Mapping[str, HeldOut]
    seeds: tuple[Seed, ...]
    examples: tuple[Example, ...] = ()
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for results that do not fit together."""
        check(self)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> AlignmentResults:
        """Read what `to_json` wrote."""
        return AlignmentResults(
            **{
                **record,
                "run": RunInfo.from_json(record["run"]),
                "sets": {name: HeldOut(**one) for name, one in record["sets"].items()},
                "seeds": tuple(
                    Seed(**{**one, "judged": Judged.from_json(one["judged"])}) for one in record["seeds"]
                ),
                "examples": tuple(Example.from_json(one) for one in record["examples"]),
                "caveats": tuple(record["caveats"]),
            }
        )  # fmt: skip
