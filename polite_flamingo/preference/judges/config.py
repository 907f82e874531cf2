"""The section `judge` of a profile: which judge rates the answers, and how often and in which order it is asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from polite_flamingo.endpoints.config import ServersConfig, refuse_extra
from polite_flamingo.filters.endpoint_config import RewardEndpoint

Kind = Literal["rule", "reward", "endpoint"]


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint(ServersConfig):
    """OpenAI-compatible chat servers of a model that judges.

    Attributes:
        pictures: whether the judge is shown the pictures; false for a language model.
        max_side: longest side of a picture in pixels; larger ones are scaled down before they are sent.
        reference: whether it is shown the annotation as a reference answer; a judge that sees no pictures needs it.
        structured: bind the answer by a JSON schema (`response_format`); false for servers that know none.
        logprobs: ask for the log-probabilities of the ratings' tokens, for expected ratings; the server must have them.
        max_tokens: longest answer in tokens, reasoning included.
        temperature: of the first time that something is asked; 0 is greedy.
        again_temperature: of the other times (`judge.samples`); it must be above 0, for they would all be the same.
        extra: further fields of each request, as they are; a field that is null is left out.
    """

    pictures: bool = True
    max_side: int = 1024
    reference: bool = False
    structured: bool = True
    logprobs: bool = False
    max_tokens: int = 2048
    temperature: float = 0.0
    again_temperature: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for impossible numbers."""
        super().__post_init__()
        if self.max_tokens < 1 or self.max_side < 28:
            raise ValueError("endpoint: max_tokens must be at least 1, and max_side at least 28")
        if self.temperature < 0 or not self.again_temperature > 0:
            raise ValueError("endpoint: needs temperature >= 0 and again_temperature > 0")
        refuse_extra(self.extra, frozenset({"model", "messages", "stream", "n"}))


@dataclass(frozen=True, kw_only=True)
class JudgeSection:
    """The judge of a profile.

    Attributes:
        kind: rule (an exact check that a function makes), reward (a reward model) or endpoint (a chat model).
        rule: of the kind rule: MODULE:FUNCTION, (sample, answer) -> ratings by attribute, and why.
        reward: of the kind reward: a sequence classifier with one label, or servers of a reward model. It reads only
            text, so it cannot know whether an answer about a picture is correct.
        batch_size: pairs per forward pass of a reward model on this machine.
        device: a torch device for it.
        threads: torch's CPU threads; 0 keeps torch's default.
        endpoint: the servers of the kind endpoint.
        orders: in how many orders a chat model sees the answers to a prompt together, each a rotation of the one
            before; as many as answers puts each in each place once. 0 shows every answer alone only.
        samples: how often each of these requests is made.
        audit: share of prompts, chosen by key, that are also asked `audit_samples` times, and each answer also alone.
        audit_samples: how often, there.
        blind: show black pictures of the same size instead, to measure how much the judge looks.
        seed: of the orders, of the audit's choice and of sampling.
        max_cost: money after which the job stops; what was paid for is kept. Needs `prices.tokens.judge`.
        allow_same_model: let a model judge its own answers, which it prefers.
    """

    kind: Kind = "endpoint"
    rule: str = ""
    reward: str | RewardEndpoint = "zoo:reward"
    batch_size: int = 64
    device: str = "cpu"
    threads: int = 0
    endpoint: JudgeEndpoint = field(default_factory=JudgeEndpoint)
    orders: int = 1
    samples: int = 1
    audit: float = 0.05
    audit_samples: int = 3
    blind: bool = False
    seed: int = 0
    max_cost: float | None = None
    allow_same_model: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for impossible numbers, or if the chosen kind names no judge."""
        if self.orders < 0 or self.samples < 1 or self.audit_samples < 1 or not 0 <= self.audit <= 1:
            raise ValueError("judge: needs orders >= 0, samples and audit_samples >= 1, and audit from 0 to 1")
        if self.max_cost is not None and self.max_cost <= 0:
            raise ValueError("judge: max_cost must be above 0; leave it out for no limit")
        if self.kind == "endpoint" and not self.endpoint.model:
            raise ValueError("judge: kind is endpoint: name its model in judge.endpoint.model")
        if self.kind == "rule" and not self.rule:
            raise ValueError("judge: kind is rule: name its function in judge.rule, as MODULE:FUNCTION")

    @property
    def model(self) -> str:
        """The name of the judge's model; "" for a rule."""
        if self.kind == "endpoint":
            return self.endpoint.model
        if self.kind == "rule":
            return ""
        return self.reward if isinstance(self.reward, str) else self.reward.model

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the ratings, as JSON types: not where a model runs, or how fast."""
        asked = {name: getattr(self, name) for name in ("orders", "samples", "audit", "audit_samples", "seed")}
        if self.kind == "rule":
            return {"kind": self.kind, "rule": self.rule}
        if self.kind == "reward":
            return {"kind": self.kind, **({} if isinstance(self.reward, str) else self.reward.identity())}
        where = {one.name for one in dataclasses.fields(ServersConfig)} - {"model"}
        served = {name: value for name, value in dataclasses.asdict(self.endpoint).items() if name not in where}
        return {"kind": self.kind, "blind": self.blind, **asked, **served}
