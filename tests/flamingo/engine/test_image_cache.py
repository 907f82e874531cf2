"""Encoding images, broken ones included."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from polite_flamingo.flamingo.engine import image_cache
from polite_flamingo.sample import BadSample
from tests.support.engine_requests import PICTURES

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


def test_threads_prepare_the_same_pixels_in_the_same_order(model_v1: FlamingoModel) -> None:
    data = [*PICTURES[:3], b"no image", *PICTURES[3:]]
    prepare = partial(image_cache._pixels, model_v1)
    before = torch.get_num_threads()
    for one, other in zip(image_cache._threads().map(prepare, data), map(prepare, data), strict=True):
        if isinstance(other, BadSample):
            assert isinstance(one, BadSample) and one.reason == other.reason == "corrupt_image"
        else:
            assert isinstance(one, torch.Tensor) and torch.equal(one, other)
    assert torch.get_num_threads() == before, "the model's own threads are not taken from it"


def test_a_broken_image_leaves_the_others_their_latents(model_v1: FlamingoModel) -> None:
    good = {str(number): data for number, data in enumerate(PICTURES[:3])}
    latents, broken = image_cache.encode(model_v1, {"bad": b"no image", **good})
    assert list(latents) == list(good) and list(broken) == ["bad"]
    alone, _ = image_cache.encode(model_v1, {"2": PICTURES[2]})
    torch.testing.assert_close(latents["2"], alone["2"], rtol=1e-4, atol=1e-5)
    assert image_cache.encode(model_v1, {"bad": b"no image"})[0] == {}
