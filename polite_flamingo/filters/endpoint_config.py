"""Settings of filters whose model runs on servers, in place of a model's name: `scoring.sts: {urls: […], model: …}`.

docs/filters.md says which servers offer which route.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from polite_flamingo.endpoints.config import ServersConfig, refuse_extra
from polite_flamingo.filters.nli import LABELS

_WHERE = frozenset(one.name for one in dataclasses.fields(ServersConfig)) - {"model"}


@dataclass(frozen=True, kw_only=True)
class FilterEndpoint(ServersConfig):
    """Servers of a scoring model.

    Attributes:
        batch_size: texts or pairs per request.
        extra: further fields of each request, as they are, such as {truncate_prompt_tokens: -1} for a vLLM that cuts
            long texts; a field that is null is left out.
    """

    batch_size: int = 32
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for a missing model and impossible numbers."""
        super().__post_init__()
        if not self.model:
            raise ValueError("needs the name of its model on the servers: model")
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        refuse_extra(self.extra)

    def identity(self) -> dict[str, Any]:
        """Return what decides the scores, as JSON types: not where the model runs, or how fast."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in {*_WHERE, "batch_size"}}


@dataclass(frozen=True, kw_only=True)
class StsEndpoint(FilterEndpoint):
    """A model of sentence embeddings: POST /embeddings, as in OpenAI's API."""


@dataclass(frozen=True, kw_only=True)
class NliEndpoint(FilterEndpoint):
    """A classifier of pairs with three labels.

    Attributes:
        route: classify (vLLM, SGLang: one text, joined by `separator`) or predict (TEI: pairs).
        labels: names of the model's labels in the order of its `id2label`; only classify needs them.
        separator: what stands between the texts for classify: [SEP] for BERT and DeBERTa, </s></s> for RoBERTa.
    """

    route: Literal["classify", "predict"] = "classify"
    labels: tuple[str, ...] = LABELS
    separator: str = "[SEP]"

    def __post_init__(self) -> None:
        """Raise ValueError for other labels."""
        super().__post_init__()
        if sorted(self.labels) != sorted(LABELS):
            raise ValueError(f"labels must be {', '.join(LABELS)}, in the order of the model's id2label")


@dataclass(frozen=True, kw_only=True)
class RewardEndpoint(FilterEndpoint):
    """A model with one label for a question and an answer.

    Attributes:
        route: score (vLLM's cross-encoders), predict (TEI), or chat (vLLM's /classify with messages, for reward models
            that are language models; one request per answer).
    """

    route: Literal["score", "predict", "chat"] = "score"


@dataclass(frozen=True, kw_only=True)
class ClipEndpoint(FilterEndpoint):
    """A model that embeds texts and images: POST /embeddings.

    Attributes:
        images: how an image is sent: messages (vLLM) or modality (infinity).
        max_side: longest side of an image in pixels; larger ones are scaled down before they are sent.
    """

    images: Literal["messages", "modality"] = "messages"
    max_side: int = 1024
