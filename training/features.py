"""A cache of image features that a training stage does not change.

Where the vision encoder is frozen, its patch tokens never change; where the perceiver is frozen too, neither do its
latents, which are a tenth of the size. A stage that tunes the vision encoder needs pixels. The cache is bounded by
bytes and evicts the least recently used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from polite_flamingo.flamingo.engine.image_cache import EncodedImages, digest, patch_tokens, pixels
from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class Features:
    """The features of encoded images, one tensor each.

    Attributes:
        kind: "latents" of the perceiver (L, D), "patch tokens" (1, V, D), or "pixels" (1, 3, H, W).
        cache: features by the images' digests.
    """

    def __init__(self, model: FlamingoModel, max_bytes: int):
        """Args: model: already frozen for its stage. max_bytes: maximum size of the cache."""
        self._model = model
        self.kind: Literal["latents", "patch tokens", "pixels"] = (
            "pixels" if _tuned(model.vision_encoder) else "patch tokens" if _tuned(model.perceiver) else "latents"
        )
        self.cache: EncodedImages[Tensor] = EncodedImages(self._encode, max_bytes)

    def get(self, images: Sequence[bytes]) -> list[Tensor | BadSample]:
        """Return each image's features, in order; a `BadSample` for a broken image."""
        names = [digest(data) for data in images]
        found = self.cache.get(dict(zip(names, images, strict=True)))
        return [found[name] for name in names]

    @torch.no_grad()
    def _encode(self, encoded: Mapping[str, bytes]) -> dict[str, Tensor | BadSample]:
        if self.kind == "pixels":
            weight = next(self._model.vision_encoder.parameters())
            shown, broken = pixels(self._model, encoded)
            return broken | {name: upload(one[None], weight.device, weight.dtype) for name, one in shown.items()}
        tokens, broken = patch_tokens(self._model, encoded)
        made: dict[str, Tensor | BadSample] = dict(broken)
        if tokens:
            seen = torch.stack(list(tokens.values()))[:, None, None]
            each = self._model.latents(seen)[:, 0] if self.kind == "latents" else seen[:, 0]
            made |= {name: one.clone() for name, one in zip(tokens, each, strict=True)}
        return made


def _tuned(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
