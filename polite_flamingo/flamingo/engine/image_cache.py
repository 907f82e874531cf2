"""The image cache: decodes, encodes, resamples and projects each distinct image once.

The key is the SHA-256 of the image's bytes. A cache belongs to one model, so the preprocessing need not be part of the
key. Size is bounded in bytes; broken images are remembered too. Beam search and training keep other encodings of images
in the same way (`EncodedImages`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import ImageKV
from polite_flamingo.images import decoding as images
from polite_flamingo.lru_cache import LruCache
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

Encoded = TypeVar("Encoded", bound=Tensor | ImageKV)

ENCODE_BATCH = 16
"""Images per pass of the vision tower; bounds memory however many are asked for."""


def digest(data: bytes) -> str:
    """Return the cache key of an encoded image."""
    return hashlib.sha256(data).hexdigest()


@torch.inference_mode()
def encode(model: FlamingoModel, encoded: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, BadSample]]:
    """Return the perceiver latents (N, D) of each image by name, and why the others have none; one forward pass."""
    tokens, broken = patch_tokens(model, encoded)
    if not tokens:
        return {}, broken
    latents = model.latents(torch.stack(list(tokens.values()))[:, None, None])[:, 0]
    return dict(zip(tokens, latents, strict=True)), broken


def patch_tokens(model: FlamingoModel, encoded: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, BadSample]]:
    """Return the patch tokens (V, D) of each image by name, and why the others have none; one forward pass."""
    weight = next(model.vision_encoder.parameters())
    made, broken = pixels(model, encoded)
    if not made:
        return {}, broken
    tokens = model.patch_tokens(upload(torch.stack(list(made.values())), weight.device, weight.dtype))
    return dict(zip(made, tokens, strict=True)), broken


def pixels(model: FlamingoModel, encoded: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, BadSample]]:
    """Return the normalised pixels (3, H, W) of each image by name, on the CPU, and why the others have none."""
    weight = next(model.vision_encoder.parameters())
    each = _threads().map if weight.device.type == "cuda" else map
    made = dict(zip(encoded, each(partial(_pixels, model), encoded.values()), strict=True))
    broken = {name: one for name, one in made.items() if isinstance(one, BadSample)}
    return {name: one for name, one in made.items() if not isinstance(one, BadSample)}, broken


def _pixels(model: FlamingoModel, data: bytes) -> Tensor | BadSample:
    """Decode, resize and normalise to (3, H, W)."""
    try:
        return model.preprocess(images.without_extreme_aspect(images.decode(data)))
    except BadSample as bad:
        return BadSample(bad.reason, bad.detail)  # a fresh one: the caught one's traceback holds the pixels


@cache
def _threads() -> ThreadPoolExecutor:
    """Return threads that decode images for a GPU, which encodes more images per second than one core decodes."""
    # one torch thread each, or every worker would start as many again
    return ThreadPoolExecutor(torch.get_num_threads(), "pixels", initializer=torch.set_num_threads, initargs=(1,))


def first_broken(images: Iterable[object]) -> BadSample | None:
    """Return why a sample's first broken image has no encoding, with its number; None if no image is broken."""
    for number, one in enumerate(images):
        if isinstance(one, BadSample):
            return BadSample(one.reason, f"image {number}: {one.detail}")
    return None


class EncodedImages(Generic[Encoded]):
    """An LRU cache of encoded images. For a broken image it keeps the reason.

    Attributes:
        misses: images that had to be decoded and encoded.
    """

    def __init__(self, encode: Callable[[Mapping[str, bytes]], Mapping[str, Encoded | BadSample]], max_bytes: int):
        """Create an empty cache.

        Args:
            encode: encodes up to `ENCODE_BATCH` images by name.
            max_bytes: maximum size of the cache; 0 keeps nothing from one call to the next.
        """
        self._encode = encode
        self._cache: LruCache[str, Encoded | BadSample] = LruCache(max_bytes, _size)
        self.misses = 0

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return self._cache.size

    def get(self, encoded: Mapping[str, bytes]) -> dict[str, Encoded | BadSample]:
        """Return each image's encoding by its digest; a `BadSample` for an image that cannot be decoded."""
        found = {name: cached for name in encoded if (cached := self._cache.get(name)) is not None}
        missing = [name for name in encoded if name not in found]
        self.misses += len(missing)
        for start in range(0, len(missing), ENCODE_BATCH):
            made = self._encode({name: encoded[name] for name in missing[start : start + ENCODE_BATCH]})
            for name, one in made.items():
                self._cache.put(name, one)
            found |= made
        return found


class ImageCache(EncodedImages[ImageKV]):
    """Keys and values of images in the cross-attention layers."""

    def __init__(self, model: FlamingoModel, decoder: Decoder, max_bytes: int = 512 << 20):
        """Args: max_bytes: maximum size of the cache (74 kB per image of the tiny model, 1 MB of the 9B model)."""
        super().__init__(self._keys_and_values, max_bytes)
        self._model, self._decoder = model, decoder

    def _keys_and_values(self, encoded: Mapping[str, bytes]) -> dict[str, ImageKV | BadSample]:
        latents, broken = encode(self._model, encoded)
        if not latents:
            return dict(broken)
        return broken | dict(zip(latents, self._decoder.image_kv(torch.stack(list(latents.values()))), strict=True))


def _size(one: Tensor | ImageKV | BadSample) -> int:
    """Return the size of a cache entry in bytes; for a broken image, roughly that of its message."""
    return 200 if isinstance(one, BadSample) else one.nbytes
