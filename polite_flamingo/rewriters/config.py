"""The section `rewriter` of a profile: which kind of rewriter, and the settings of each kind.

Only the settings of the chosen kind are used; those of the others may stay in the profile.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polite_flamingo.endpoints.config import ServersConfig, refuse_extra
from polite_flamingo.flamingo.config import DecodingConfig, FlamingoConfig, RewriterConfig
from polite_flamingo.sample import IMAGE_MARK

Kind = Literal["flamingo", "endpoint", "vllm", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PLACEHOLDERS = ("instruction", "annotation", "task", "language")
"""What a prompt may hold in braces."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An annotation and how it should be rewritten.

    Attributes:
        instruction: what is asked, without images.
        annotation: the raw annotation.
        polite: the rewritten text.
    """

    instruction: str
    annotation: str
    polite: str


EXAMPLES = (
    Example(
        instruction="What is the man holding?",
        annotation="Answer: umbrella",
        polite="The man is holding an umbrella.",
    ),
    Example(
        instruction="Describe the picture in detail.",
        annotation=(
            "a dog on a beach\n"
            "a brown dog runs along the water with a stick\n"
            "The positions of objects, as normalised (x1, y1, x2, y2):\n"
            "dog: [0.052, 0.551, 0.357, 0.880]"
        ),
        polite="The picture shows a brown dog on a beach, which is running along the water with a stick.",
    ),
    Example(
        instruction="Why are the shops empty?",
        annotation="Answer: early\nRationale: the clock shows 6 am and the shutters are down",
        polite="The shops are empty because it is early: the clock shows 6 a.m., and the shutters are still down.",
    ),
    Example(
        instruction="What is behind the fence?",
        annotation="nothing",
        polite="There is nothing behind the fence.",
    ),
    Example(
        instruction="Is the woman older than 30? Answer yes or no.",
        annotation="no",
        polite="No, the woman is not older than 30.",
    ),
)
"""Ours. They show what small models get wrong without them: an answer of one word becomes a sentence, all captions
become one description without the numbers of boxes, the reason stays, and an odd answer is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a chat model is asked to rewrite.

    Attributes:
        system: the system message, with {language} where it names the language; empty for the built-in one, which
            depends on whether pictures are sent.
        template: the user's message, with {instruction} (once if pictures are sent, because they stand in it),
            {annotation} and, where they help, {task} and {language}.
        examples: rewritten annotations that the model sees before each request; [] for none, with worse results.
        language: the language of the texts, such as German; "same" is that of the annotation.
    """

    system: str = ""
    template: str = "Instruction: {instruction}\nAnnotation: {annotation}"
    examples: tuple[Example, ...] = EXAMPLES
    language: str = "same"

    def __post_init__(self) -> None:
        """Raise ValueError for a template without the annotation, and for marks of images in it."""
        if "{annotation}" not in self.template or "{instruction}" not in self.template:
            raise ValueError("prompt.template must contain {instruction} and {annotation}")
        if IMAGE_MARK in self.template or IMAGE_MARK in self.system:
            raise ValueError(f"prompt: {IMAGE_MARK} must not occur: images stand where the instruction has them")
        if others := {"instruction", "annotation", "task"} & {*re.findall(r"\{(\w+)\}", self.system)}:
            raise ValueError(
                f"prompt.system: {{{min(others)}}} stands in prompt.template; only {{language}} can be here"
            )
        for unknown in re.findall(r"\{(\w+)\}", self.template + self.system):
            if unknown not in PLACEHOLDERS:
                raise ValueError(f"prompt: {{{unknown}}} is unknown; known are {', '.join(PLACEHOLDERS)}")
        if not self.language.strip():
            raise ValueError("prompt.language must name a language, or be same")


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """What any chat model is asked, wherever it runs. It decides the texts, so another value is another run.

    Attributes:
        pictures: whether the model is shown the pictures; false for a language model, which sees texts alone.
        max_side: longest side of a picture in pixels; larger ones are scaled down before they are sent.
        prompt: how the model is asked.
        structured: ask for JSON, {"polite": text}, bound by a schema, of models that talk around their answer.
        max_tokens: longest answer in tokens, reasoning included; a longer one is quarantined (answer_cut).
        temperature: sampling temperature; 0 is greedy.
        top_p: nucleus sampling.
        seed: a different seed gives different samples; each request's own depends on its sample's key.
        extra: further fields of each request (of vLLM's SamplingParams), as they are, such as {top_k: 20}; a field
            that is null is left out, such as {seed: null} for servers that do not know it.
    """

    pictures: bool = True
    max_side: int = 1024
    prompt: PromptConfig = field(default_factory=PromptConfig)
    structured: bool = False
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for impossible numbers."""
        if self.max_tokens < 1 or self.max_side < 28:
            raise ValueError("max_tokens must be at least 1, and max_side at least 28")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature must be at least 0, and top_p above 0 and at most 1")
        if self.pictures and self.prompt.template.count("{instruction}") > 1:
            raise ValueError("prompt.template: {instruction} must occur once, because it stands for the pictures too")
        refuse_extra(self.extra, frozenset({"model", "messages", "stream", "n"}))


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(ChatConfig, ServersConfig):
    """OpenAI-compatible chat servers of one model."""

    def __post_init__(self) -> None:
        """Raise ValueError for what no server can do."""
        ServersConfig.__post_init__(self)
        ChatConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class VllmConfig(ChatConfig):
    """A chat model in vLLM's engine, inside each rewriting actor.

    Attributes:
        model: a folder, or a hub name.
        lora: a LoRA adapter's folder or hub name; empty for none.
        engine: arguments of `vllm.LLM`, as they are, such as {max_model_len: 8192, tensor_parallel_size: 2}.
    """

    model: str = ""
    lora: str = ""
    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what is set elsewhere."""
        super().__post_init__()
        if "model" in self.engine:
            raise ValueError("vllm: name the model in rewriter.vllm.model, not in engine")


@dataclass(frozen=True, kw_only=True)
class RewriterSection(DecodingConfig):
    """The rewriter of a profile. The fields that `kind` does not name belong to a Flamingo.

    Attributes:
        kind: flamingo (the paper's rewriter), endpoint (any chat model behind a server), vllm (any chat model inside
            the workers) or none (annotations stay as they are, and are scored).
        flamingo: the model of the kind flamingo.
        endpoint: the servers of the kind endpoint.
        vllm: the model of the kind vllm.
    """

    kind: Kind = "flamingo"
    flamingo: FlamingoConfig | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)

    def __post_init__(self) -> None:
        """Raise ValueError if the chosen kind names no model."""
        super().__post_init__()
        if self.kind == "flamingo" and self.flamingo is None:
            raise ValueError("rewriter: no section `rewriter.flamingo`; or choose another --rewriter.kind")
        if self.kind == "endpoint" and not self.endpoint.model:
            raise ValueError("rewriter: kind is endpoint: name its model in rewriter.endpoint.model")
        if self.kind == "vllm" and not self.vllm.model:
            raise ValueError("rewriter: kind is vllm: name the model in rewriter.vllm.model")

    def of_flamingo(self, what: str = "this") -> RewriterConfig:
        """Return the settings of a Flamingo. Raises `ValueError` for another kind. Args: what: who needs one."""
        if self.kind != "flamingo" or self.flamingo is None:
            raise ValueError(f"rewriter.kind is {self.kind}, but {what} needs a Flamingo: set it to flamingo")
        return RewriterConfig(flamingo=self.flamingo, **decoding(self))


def decoding(section: DecodingConfig) -> dict[str, Any]:
    """Return the fields of `DecodingConfig`."""
    return {one.name: getattr(section, one.name) for one in dataclasses.fields(DecodingConfig)}
