"""Several answers of one model to each prompt: the settings, what a prompt is, and what becomes of the answers.

A prompt is a sample up to its last turn that may be learned. The turns before are context, and its own response stays
beside the answers as the reference. A prompt keeps the answers that it got; one that has too few is quarantined with
the reason of the first answer that failed. `policies.py` has the models.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from polite_flamingo.candidates import Candidate
from polite_flamingo.conversations import polite_text, polite_turns
from polite_flamingo.endpoints.config import ServersConfig, refuse_extra
from polite_flamingo.flamingo.config import EngineConfig, FlamingoConfig, GenerationConfig, RewriterConfig
from polite_flamingo.sample import IMAGE_MARK, BadSample, Quarantined, Sample

Kind = Literal["flamingo", "endpoint"]


@dataclass(frozen=True, kw_only=True)
class PolicyEndpoint(ServersConfig):
    """OpenAI-compatible chat servers of the model that answers.

    Attributes:
        pictures: whether the model is shown the pictures; false for a language model, which sees texts alone.
        max_side: longest side of a picture in pixels; larger ones are scaled down before they are sent.
        extra: further fields of each request, as they are, such as {top_k: 20}; a field that is null is left out, such
            as {seed: null} for servers that do not know it.
    """

    pictures: bool = True
    max_side: int = 1024
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what no server can do."""
        super().__post_init__()
        if self.max_side < 28:
            raise ValueError("endpoint: max_side must be at least 28")
        refuse_extra(self.extra, frozenset({"model", "messages", "stream", "n"}))


@dataclass(frozen=True, kw_only=True)
class SamplingSection:
    """The section `sampling` of a profile: which model answers, how often, and how freely.

    Attributes:
        kind: flamingo (a checkpoint, through our engine) or endpoint (any chat model behind a server).
        answers: answers per prompt.
        least: answers that a prompt needs to be kept; 2 is the fewest that can be compared.
        temperature: sampling temperature; the paper's scripts have 1.2 (arXiv 2402.10884, its repository).
        top_p: sample from the fewest likeliest tokens with at least this total probability.
        top_k: of a Flamingo, sample from this many of the likeliest tokens; 0 means all.
        max_tokens: longest answer in tokens; a longer one is cut and marked so.
        seed: another seed gives other answers; each answer's own also depends on its sample's key and its number.
        flamingo: the model of the kind flamingo.
        engine: of a Flamingo.
        device: of a Flamingo: cpu, cuda, or auto for a GPU if there is one.
        dtype: of a Flamingo, as in the section rewriter.
        threads: torch's CPU threads; 0 keeps torch's default.
        endpoint: the servers of the kind endpoint.
    """

    kind: Kind = "flamingo"
    answers: int = 4
    least: int = 2
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    seed: int = 0
    flamingo: FlamingoConfig | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    threads: int = 0
    endpoint: PolicyEndpoint = field(default_factory=PolicyEndpoint)

    def __post_init__(self) -> None:
        """Raise ValueError for impossible numbers, or if the chosen kind names no model."""
        if not 1 <= self.least <= self.answers:
            raise ValueError("sampling: needs 1 <= least <= answers")
        if not self.temperature > 0 and self.answers > 1:
            raise ValueError("sampling: temperature must be above 0, else all answers to a prompt are the same")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_tokens < 1:
            raise ValueError("sampling: needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_tokens >= 1")
        if self.kind == "flamingo" and self.flamingo is None:
            raise ValueError("sampling: no section `sampling.flamingo`; or choose another --sampling.kind")
        if self.kind == "endpoint" and not self.endpoint.model:
            raise ValueError("sampling: kind is endpoint: name its model in sampling.endpoint.model")

    @property
    def model(self) -> str:
        """The name of the model, by which a judge recognises it."""
        if self.kind == "endpoint" or self.flamingo is None:
            return self.endpoint.model
        return (
            self.flamingo.folder or self.flamingo.lora or [self.flamingo.language_model, *self.flamingo.checkpoints][-1]
        )

    def of_flamingo(self) -> RewriterConfig:
        """Return the settings of a Flamingo that answers."""
        assert self.flamingo is not None, "checked above"
        generation = GenerationConfig(
            max_new_tokens=self.max_tokens, num_beams=1, do_sample=self.temperature > 0, top_k=self.top_k,
            temperature=self.temperature or 1.0, top_p=self.top_p, no_repeat_ngram_size=0, seed=self.seed,
        )  # fmt: skip
        return RewriterConfig(
            flamingo=self.flamingo, generation=generation, engine=self.engine, device=self.device, dtype=self.dtype,
            threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer. `tokens` are words where the server does not count; `cut` says that it ends at the limit."""

    text: str
    model: str
    tokens: int
    cut: bool = False


Found = Answered | BadSample


def prompt_of(sample: Sample) -> Sample:
    """Return a sample as a prompt: up to its last learned turn, whose response is the reference; nothing is rewritten.

    Answers that it already has stay. Raises `BadSample` for a sample that is not valid.
    """
    sample.validate()
    last = max(number for number, turn in enumerate(sample.turns) if turn.learned)
    before = tuple(
        replace(turn, response=polite_text(turn), learned=False, rewritten=None, scores={}, failed="")
        for turn in polite_turns(sample)[:last]
    )
    asked = replace(sample.turns[last], rewritten=None, scores={}, failed="")
    turns = (*before, asked)
    shown = sum(turn.instruction.count(IMAGE_MARK) for turn in turns)
    return replace(sample, turns=turns, images=sample.images[:shown], rewritten=None, rejected=None, scores={})


def requests_of(prompt: Sample, answers: int) -> list[Sample]:
    """Return a prompt once per answer; each copy's key ends in the answer's number, which seeds it."""
    first = len(prompt.candidates)
    return [replace(prompt, key=f"{prompt.key}/answer{number}") for number in range(first, first + answers)]


def with_answers(prompt: Sample, found: Sequence[Found], least: int, facts: Mapping[str, Any]) -> Sample | BadSample:
    """Return a prompt with its answers, or why it has too few.

    Args:
        prompt: from `prompt_of`.
        found: one answer per request, in order, or why there is none.
        least: answers that it needs.
        facts: how the answers were sampled, for its provenance.
    """
    first = len(prompt.candidates)
    numbered = list(enumerate(found, start=first))
    answers = [
        Candidate(text=one.text, model=one.model, number=number, tokens=one.tokens, cut=one.cut)
        for number, one in numbered
        if isinstance(one, Answered)
    ]
    failed = {str(number): str(one) for number, one in numbered if isinstance(one, BadSample)}
    if len(answers) < least:
        bad = next(one for one in found if isinstance(one, BadSample))
        return BadSample(bad.reason, f"{len(answers)} of {len(found)} answers; {bad.detail}")
    provenance = {**prompt.provenance, "sampling": {**facts, **({"failed": failed} if failed else {})}}
    return replace(prompt, candidates=(*prompt.candidates, *answers), provenance=provenance)


def facts_of(config: SamplingSection) -> dict[str, Any]:
    """Return how answers are sampled."""
    names = ("answers", "temperature", "top_p", "top_k", "max_tokens", "seed")
    return {"model": config.model, **{name: getattr(config, name) for name in names}}


def identity_of(config: SamplingSection) -> dict[str, Any]:
    """Return the settings that decide the answers, as JSON types, without the model and where it runs."""
    chosen = dataclasses.asdict(config)
    for name in ("flamingo", "engine", "device", "threads", "endpoint"):
        del chosen[name]
    if config.kind == "endpoint":
        del chosen["dtype"]
        served = config.endpoint
        chosen |= {
            "model": served.model,
            "pictures": served.pictures,
            "max_side": served.max_side,
            "extra": served.extra,
        }
    return chosen


def count_answers(rows: Sequence[Sample | Quarantined]) -> dict[str, dict[str, int]]:
    """Count the answers of a shard's prompts for its manifest: given, cut, repeated, and failed by reason.

    A quarantined prompt is counted by the manifest itself.
    """
    answers, failed = Counter[str](), Counter[str]()
    for row in rows:
        if not isinstance(row, Sample):
            continue
        answers["given"] += len(row.candidates)
        answers["cut"] += sum(one.cut for one in row.candidates)
        answers["tokens"] += sum(one.tokens for one in row.candidates)
        answers["repeated"] += len(row.candidates) - len({one.text for one in row.candidates})
        failed.update(why.partition(":")[0] for why in row.provenance["sampling"].get("failed", {}).values())
    return {"answers": dict(answers), "failed": dict(sorted(failed.items()))}
