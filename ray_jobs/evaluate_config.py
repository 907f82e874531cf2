"""Configuration of an evaluation, filled by a profile and the command line (`evaluate.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polite_flamingo.endpoints.client import ServerConfig
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.choices import ChoicesConfig
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.pools import PoolsConfig
from polite_flamingo.rewriters.config import RewriterSection


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How contestants answer and are judged.

    Attributes:
        by: whether results are grouped by task or by dataset.
        examples: samples shown of each kind: random ones, and those with the most different answers.
        max_tokens: limit of an endpoint's answer.
        server: time-outs and retries of endpoints.
        resampling: bootstrap of the confidence intervals.
        difficulty: length-controlled win rates also take out how hard a sample is: the other contestants' mean reward.
        choices: multiple-choice questions, answered by log-probability.
    """

    by: Literal["task", "dataset"] = "task"
    examples: int = 8
    max_tokens: int = 512
    server: ServerConfig = field(default_factory=ServerConfig)
    resampling: Resampling = field(default_factory=Resampling)
    difficulty: bool = False
    choices: ChoicesConfig = field(default_factory=ChoicesConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything an evaluation depends on.

    Attributes:
        input: shards whose responses are the ground truth: a folder, one .tar, a pattern, a list (.txt), an address.
        out: the output folder; on several machines, one that all of them see.
        contestants: name -> a model's folder, a profile's .yaml, endpoint:MODEL@URL or recorded:FILE.jsonl; on the
            command line --contestants.NAME WHAT, once per contestant.
        text_only: the contestant that the alignment tax is measured against; "" measures none.
        rewriter: how models decode and use the machine; the model it names takes no part.
        scoring: the judges.
        evaluation: how contestants answer and are judged.
        pools: rewriting: actors that hold a model that answers; scoring: actors that hold the judges.
        fresh: delete what an earlier evaluation left in `out` and start over.
    """

    input: str
    out: str = "out/evaluation"
    contestants: dict[str, str] = field(default_factory=dict)
    text_only: str = ""
    rewriter: RewriterSection | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    fresh: bool = False
