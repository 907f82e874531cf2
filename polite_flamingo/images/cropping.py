"""A random small piece of a picture, with which mDPO shows whether an answer depends on the picture."""

from __future__ import annotations

import io
import random

from polite_flamingo.images.decoding import decode
from polite_flamingo.sample import BadSample

SHARES = (0.01, 0.2)
"""Least and greatest share of the area that is left (mDPO's published code)."""


def cropped(data: bytes, *, seed: str) -> bytes:
    """Return a random piece of a picture as PNG, the same for the same seed; broken bytes are returned as they are."""
    try:
        image = decode(data)
    except BadSample:
        return data  # whoever decodes it next says what is wrong with it
    rng = random.Random(f"crop/{seed}")
    side = rng.uniform(*SHARES) ** 0.5
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    buffer = io.BytesIO()
    image.crop((left, top, left + width, top + height)).save(buffer, "PNG")
    return buffer.getvalue()
