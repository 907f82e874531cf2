"""A cache of image features that a training stage does not change.

The vision encoder is always frozen, so its patch tokens never change; where the perceiver is frozen too, neither do its
latents, which are a tenth of the size. The cache is bounded by bytes and evicts the least recently used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.image_cache import EncodedImages, digest, patch_tokens
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class Features:
    """The features of encoded images, one tensor each.

    Attributes:
        latents: whether features are perceiver latents (L, D); else they are patch tokens (1, V, D).
        cache: features by the images' digests.
    """

    def __init__(self, model: FlamingoModel, max_bytes: int):
        """Args: model: already frozen for its stage. max_bytes: maximum size of the cache."""
        self._model = model
        self.latents = not any(parameter.requires_grad for parameter in model.perceiver.parameters())
        self.cache: EncodedImages[Tensor] = EncodedImages(self._encode, max_bytes)

    def get(self, images: Sequence[bytes]) -> list[Tensor | BadSample]:
        """Return each image's features, in order; a `BadSample` for a broken image."""
        names = [digest(data) for data in images]
        found = self.cache.get(dict(zip(names, images, strict=True)))
        return [found[name] for name in names]

    @torch.no_grad()
    def _encode(self, encoded: Mapping[str, bytes]) -> dict[str, Tensor | BadSample]:
        tokens, broken = patch_tokens(self._model, encoded)
        made: dict[str, Tensor | BadSample] = dict(broken)
        if tokens:
            seen = torch.stack(list(tokens.values()))[:, None, None]
            each = self._model.latents(seen)[:, 0] if self.latents else seen[:, 0]
            made |= {name: one.clone() for name, one in zip(tokens, each, strict=True)}
        return made
