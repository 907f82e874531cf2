"""How good responses are distorted: which kinds in which shares, who speaks, what is joined. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from polite_flamingo.endpoints.client import ServerConfig

Kind = Literal["llm", "text", "captions_and_boxes"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How often each kind is drawn, relative to the others. The defaults are the paper's counts, in thousands.

    Attributes:
        llm: said again by a terse robot (133 with an image, 76 without).
        text: random augmentation of characters, words and sentences.
        captions_and_boxes: COCO's annotations of the same image, in the place of a detailed description.
    """

    llm: float = 209.0
    text: float = 77.0
    captions_and_boxes: float = 14.0

    def __post_init__(self) -> None:
        shares = (self.llm, self.text, self.captions_and_boxes)
        if min(shares) < 0 or not sum(shares):
            raise ValueError("distortion.shares must not be negative, and one of them must be more than 0")

    def of(self, kind: Kind) -> float:
        """The share of a kind."""
        return {"llm": self.llm, "text": self.text, "captions_and_boxes": self.captions_and_boxes}[kind]


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(ServerConfig):
    """An OpenAI-compatible server; how patiently it is asked is as for any.

    Attributes:
        url: its base, such as http://127.0.0.1:8000/v1
        model: as the server calls it.
        api: completions continues the robot's words and is what the paper did; chat asks for them, where a server
            offers nothing else.
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    api: Literal["completions", "chat"] = "completions"

    def __post_init__(self) -> None:
        """Raises ValueError for what could never ask anything."""
        super().__post_init__()
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"distortion.endpoint.url must begin with http:// or https://, not {self.url[:60]!r}")


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """A causal language model of transformers, loaded by each worker.

    Attributes:
        model: a folder, a zoo: name or a hub name. It must be able to chat (the paper: Guanaco-33B).
        batch: texts that are generated together.
        device: auto takes a GPU where there is one.
        dtype: of the weights, or auto.
        threads: torch's, on a CPU; 0 leaves them as they are.
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
    """Where the captions and boxes of COCO are.

    Attributes:
        annotations: captions_*.json and instances_*.json of COCO; none: this kind falls to the others.
        datasets: whose responses are detailed descriptions, as `Sample.dataset` names them.
    """

    annotations: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ("llava_detail",)


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """How a good response becomes a bad one.

    Attributes:
        speaker: who plays the terse robot: rules (no model at all), local (transformers) or endpoint (a server).
        note_taker: for the speaker "rules", a function MODULE:FUNCTION that knows the texts of one small world and
            writes them as its annotators would; "" shortens every text.
        turns: of a dialogue, the first exchange only, or all of them, each a pair of its own.
        shares: of the kinds.
        command_share: of the robot's texts that carry one of the 24 extra orders (the paper: a half).
        draws: a distortion that is empty or changes nothing is drawn again, at most so often in all.
        seed: another one gives other distortions of the same samples.
        max_new_tokens: of the robot, where it is a model.
        temperature: of the robot, where it is a model; 0 is greedy.
        top_p: likewise.
        endpoint: of speaker endpoint.
        local: of speaker local.
        retrieval: of the kind captions_and_boxes.
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
            raise ValueError("distortion: needs temperature >= 0 and 0 < top_p <= 1")
        if self.shares.llm and self.speaker == "local" and not self.local.model:
            raise ValueError("distortion.speaker is local: name the model in distortion.local.model")
        if self.shares.llm and self.speaker == "endpoint" and not self.endpoint.model:
            raise ValueError("distortion.speaker is endpoint: name its model in distortion.endpoint.model")
        if self.shares.llm + self.shares.text == 0:
            raise ValueError(
                "distortion.shares: captions_and_boxes alone leaves every sample without them undistorted; "
                "give llm or text a share too"
            )
