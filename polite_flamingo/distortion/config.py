"""The `distortion` section of a profile: kinds and their shares, the speaker, COCO's captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from polite_flamingo.endpoints.client import ServerConfig

Kind = Literal["llm", "text", "captions_and_boxes"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Relative shares of the kinds of distortion. The defaults are the paper's counts, in thousands.

    Attributes:
        llm: rewritten by a terse robot (133 with an image, 76 without).
        text: random augmentation of characters, words and sentences.
        captions_and_boxes: COCO's captions and boxes of the image instead of a detailed description.
    """

    llm: float = 209.0
    text: float = 77.0
    captions_and_boxes: float = 14.0

    def __post_init__(self) -> None:
        shares = vars(self).values()
        if min(shares) < 0 or not sum(shares):
            raise ValueError("distortion.shares must not be negative, and at least one must be above 0")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(ServerConfig):
    """An OpenAI-compatible server.

    Attributes:
        url: base address, such as http://127.0.0.1:8000/v1
        model: its name on the server.
        api: "completions" lets the model continue the robot's words, as in the paper; "chat" is for servers without
            it.
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    api: Literal["completions", "chat"] = "completions"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"distortion.endpoint.url must begin with http:// or https://, not {self.url[:60]!r}")


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """A causal language model of transformers, loaded by each worker.

    Attributes:
        model: a folder, a zoo: name or a hub name; a chat model (the paper used Guanaco-33B).
        batch: number of texts generated together.
        device: "auto" uses a GPU if there is one.
        dtype: type of the weights, or "auto".
        threads: torch threads on a CPU; 0 keeps torch's default.
    """

    model: str = ""
    batch: int = 16
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError("distortion.local.batch must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Files with the captions and boxes of COCO.

    Attributes:
        annotations: COCO's captions_*.json and instances_*.json; without them, another kind replaces this one.
        datasets: names (`Sample.dataset`) of datasets whose responses are detailed descriptions.
    """

    annotations: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ("llava_detail",)


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """How good responses are distorted.

    Attributes:
        speaker: the terse robot: "rules" (no model), "local" (transformers) or "endpoint" (a server).
        note_taker: for the speaker "rules", a function MODULE:FUNCTION that knows the texts of one small world and
            writes them as its annotators would; "" shortens every text.
        turns: which turns of a dialogue become pairs: only the first, or all.
        shares: relative shares of the kinds of distortion.
        command_share: share of the robot's texts with one of the 24 extra commands (one half in the paper).
        draws: attempts per sample, including the first, if a distortion is empty, faulty or changes nothing.
        seed: a different seed gives different distortions.
        max_new_tokens: longest text of a robot that is a model.
        temperature: sampling temperature of a robot that is a model; 0 is greedy.
        top_p: nucleus sampling of a robot that is a model.
        endpoint: the server of the speaker "endpoint".
        local: the model of the speaker "local".
        retrieval: the annotations for the kind captions_and_boxes.
    """

    speaker: Literal["rules", "local", "endpoint"] = "rules"
    note_taker: str = ""
    turns: Literal["first", "all"] = "first"
    shares: Shares = field(default_factory=Shares)
    command_share: float = 0.5
    draws: int = 4
    seed: int = 0
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.9
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.command_share <= 1:
            raise ValueError("distortion.command_share must be from 0 to 1")
        if self.draws < 1 or self.max_new_tokens < 1:
            raise ValueError("distortion: draws and max_new_tokens must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("distortion: temperature must be at least 0, and top_p above 0 and at most 1")
        if self.shares.llm and self.speaker == "local" and not self.local.model:
            raise ValueError("distortion.speaker is local: name the model in distortion.local.model")
        if self.shares.llm and self.speaker == "endpoint" and not self.endpoint.model:
            raise ValueError("distortion.speaker is endpoint: name its model in distortion.endpoint.model")
        if self.shares.llm + self.shares.text == 0:
            raise ValueError(
                "distortion.shares: with captions_and_boxes alone, samples without captions cannot be distorted; "
                "give llm or text a share too"
            )
