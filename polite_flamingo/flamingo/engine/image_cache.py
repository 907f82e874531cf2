"""Images -> what the language model attends, each distinct image once: decoded, encoded, resampled, projected.

An image is known by the sha256 of its bytes; the preprocessing is the model's own, so it need not be part of the name.
What is kept is bounded by size, the least recently used goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.decoder import Decoder, Media
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.images import decoding as images
from polite_flamingo.sample import BadSample

AT_ONCE = 16
"""Images pushed through the vision tower together: bounds the memory whatever the length of the list."""


def digest(data: bytes) -> str:
    """The name of an image."""
    return hashlib.sha256(data).hexdigest()


@torch.inference_mode()
def encode(model: FlamingoModel, encoded: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, BadSample]]:
    """Perceiver latents (N, D) of images by name, all in one pass; and why the others have none."""
    tokens, broken = patch_tokens(model, encoded)
    if not tokens:
        return {}, broken
    latents = model.latents(torch.stack(list(tokens.values()))[:, None, None])[:, 0]
    return dict(zip(tokens, latents, strict=True)), broken


def patch_tokens(model: FlamingoModel, encoded: Mapping[str, bytes]) -> tuple[dict[str, Tensor], dict[str, BadSample]]:
    """Patch tokens (V, D) of images by name, all in one pass; and why the others have none."""
    weight = next(model.vision_encoder.parameters())
    each = _threads().map if weight.device.type == "cuda" else map
    made = dict(zip(encoded, each(partial(_pixels, model), encoded.values()), strict=True))
    broken = {name: one for name, one in made.items() if isinstance(one, BadSample)}
    pixels = {name: one for name, one in made.items() if not isinstance(one, BadSample)}
    if not pixels:
        return {}, broken
    tokens = model.patch_tokens(upload(torch.stack(list(pixels.values())), weight.device, weight.dtype))
    return dict(zip(pixels, tokens, strict=True)), broken


def _pixels(model: FlamingoModel, data: bytes) -> Tensor | BadSample:
    """Normalised pixels (3, H, W)."""
    try:
        return model.preprocess(images.without_extreme_aspect(images.decode(data)))
    except BadSample as bad:
        return bad


@cache
def _threads() -> ThreadPoolExecutor:
    """One core decodes and resizes fewer images a second than a GPU encodes; beside a CPU model none is free for it."""
    # each thread's tensor work stays in that thread: it would start as many threads again
    return ThreadPoolExecutor(torch.get_num_threads(), "pixels", initializer=torch.set_num_threads, initargs=(1,))


def first_broken(images: Iterable[object]) -> BadSample | None:
    """Why the first of a sample's images that is broken has no encoding, and which one it is."""
    for number, one in enumerate(images):
        if isinstance(one, BadSample):
            return BadSample(one.reason, f"image {number}: {one.detail}")
    return None


class MediaCache:
    """Keys and values of images in the cross-attention layers.

    Attributes:
        hits: images that were there when asked for.
        misses: images that had to be encoded.
        bytes: of what is kept.
    """

    def __init__(self, model: FlamingoModel, decoder: Decoder, max_bytes: int = 512 << 20):
        """Args: max_bytes: of keys and values kept (74 kB an image of the tiny model, 1 MB of the 9B model)."""
        self._model, self._decoder, self._max_bytes = model, decoder, max_bytes
        self._kept: OrderedDict[str, Media] = OrderedDict()
        self.bytes = 0
        self.hits = self.misses = 0

    def get(self, encoded: Mapping[str, bytes]) -> dict[str, Media | BadSample]:
        """What each image is, by its digest; a `BadSample` for one that does not decode."""
        found: dict[str, Media | BadSample] = {}
        missing = []
        for name in encoded:
            if name in self._kept:
                self._kept.move_to_end(name)
                found[name] = self._kept[name]
            else:
                missing.append(name)
        self.hits += len(found)
        self.misses += len(missing)
        for start in range(0, len(missing), AT_ONCE):
            found |= self._encode({name: encoded[name] for name in missing[start : start + AT_ONCE]})
        return found

    def _encode(self, encoded: Mapping[str, bytes]) -> dict[str, Media | BadSample]:
        latents, broken = encode(self._model, encoded)
        if not latents:
            return dict(broken)
        made = dict(zip(latents, self._decoder.media(torch.stack(list(latents.values()))), strict=True))
        for name, media in made.items():
            self._keep(name, media)
        return broken | made

    def _keep(self, name: str, media: Media) -> None:
        self._kept[name] = media
        self.bytes += _size(media)
        while self.bytes > self._max_bytes and len(self._kept) > 1:
            self.bytes -= _size(self._kept.popitem(last=False)[1])


def _size(media: Media) -> int:
    return 2 * media.keys.numel() * media.keys.element_size()
